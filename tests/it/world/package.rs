//! Tiny packages: a DESCRIPTION, a NAMESPACE, one line of R, and whatever a test adds.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use fs_err as fs;
use serde_json::{Value, json};

use super::archive::{Form, Member, pack};

/// A source package in memory.
#[derive(Debug, Clone)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: String,
    fields: Vec<(String, String)>,
    files: BTreeMap<String, (Vec<u8>, bool)>,
}

impl Package {
    /// A package with one function, `answer()`, that returns the version.
    pub(crate) fn new(name: &str, version: &str) -> Self {
        let package =
            Self { name: name.to_owned(), version: version.to_owned(), fields: Vec::new(), files: BTreeMap::new() };
        package.file("NAMESPACE", "export(answer)\n").file("R/code.R", &format!("answer <- function() \"{version}\"\n"))
    }

    /// A package that is nothing but a header, which defines a number.
    pub(crate) fn header(name: &str, version: &str, number: u32) -> Self {
        let upper = name.to_uppercase();
        Self::new(name, version).file(&format!("inst/include/{name}.h"), &format!("#define {upper}_NUMBER {number}\n"))
    }

    /// A package that compiles the number of a header package into its function `answer()`.
    pub(crate) fn linker(name: &str, version: &str, header: &str) -> Self {
        let upper = header.to_uppercase();
        let code = format!(
            "#include <{header}.h>\n#include <R.h>\n#include <Rinternals.h>\n\
             extern \"C\" SEXP number() {{ return Rf_ScalarInteger({upper}_NUMBER); }}\n"
        );
        Self::new(name, version)
            .field("LinkingTo", header)
            .file("NAMESPACE", &format!("useDynLib({name}, number)\nexport(answer)\n"))
            .file("R/code.R", "answer <- function() .Call(number)\n")
            .file("src/number.cpp", &code)
    }

    /// A package whose `configure` runs this shell script.
    pub(crate) fn configured(name: &str, version: &str, script: &str) -> Self {
        Self::new(name, version).executable("configure", &format!("#!/bin/sh\n{script}\n"))
    }

    /// A package that does not install.
    pub(crate) fn broken(name: &str, version: &str) -> Self {
        Self::configured(name, version, "echo 'libnothing was not found'\nexit 1")
    }

    /// Adds a field of DESCRIPTION.
    pub(crate) fn field(mut self, name: &str, value: &str) -> Self {
        self.fields.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Imports other packages, and uses them: R checks that they are there.
    pub(crate) fn imports(self, packages: &[&str]) -> Self {
        let imported: Vec<String> = packages.iter().map(|package| format!("importFrom({package}, answer)\n")).collect();
        let namespace = imported.concat();
        // `answer` of the package itself would collide with the imported one.
        let this = self.file("NAMESPACE", &format!("{namespace}export(own)\n"));
        let version = this.version.clone();
        this.file("R/code.R", &format!("own <- function() paste(\"{version}\", answer())\n"))
            .field("Imports", &packages.join(", "))
    }

    /// Adds or replaces a file.
    pub(crate) fn file(mut self, path: &str, content: &str) -> Self {
        self.files.insert(path.to_owned(), (content.into(), false));
        self
    }

    /// Adds or replaces an executable file.
    pub(crate) fn executable(mut self, path: &str, content: &str) -> Self {
        self.files.insert(path.to_owned(), (content.into(), true));
        self
    }

    fn description(&self) -> String {
        let mut text = format!(
            "Package: {}\nVersion: {}\nTitle: Made for a Test\nDescription: Made for a test.\nAuthor: A Tester\n\
             Maintainer: A Tester <tester@example.org>\nLicense: GPL-3\n",
            self.name, self.version
        );
        for (name, value) in &self.fields {
            text.extend([name, ": ", value, "\n"]);
        }
        if self.files.keys().any(|path| path.starts_with("src/")) {
            text += "NeedsCompilation: yes\n";
        }
        text
    }

    /// Returns the files of the package, below `top` (which ends with a slash or is empty).
    fn members(&self, top: &str) -> Vec<Member> {
        let description = (format!("{top}DESCRIPTION"), self.description().into_bytes(), false);
        let files = self.files.iter();
        std::iter::once(description)
            .chain(
                files.map(|(path, (content, is_executable))| (format!("{top}{path}"), content.clone(), *is_executable)),
            )
            .collect()
    }

    /// Returns the source archive as repositories have it.
    pub(crate) fn archive(&self, form: Form) -> Vec<u8> {
        self.archive_below(&format!("{}/", self.name), form)
    }

    /// Returns an archive with the package in this folder, as GitHub makes them: `repo-1a2b3c/pkg/`.
    pub(crate) fn archive_below(&self, top: &str, form: Form) -> Vec<u8> {
        pack(&self.members(top), form)
    }

    /// Writes the source tree into a directory, which then has nothing else.
    pub(crate) fn write_to(&self, dir: &Path) {
        if dir.exists() {
            fs::remove_dir_all(dir).unwrap();
        }
        for (path, content, is_executable) in self.members("") {
            let path = dir.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, content).unwrap();
            if is_executable {
                fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
            }
        }
    }

    /// Returns the entry of a lockfile as an older pak writes it: `dependencies` in one list, no `deps`, no sha256.
    pub(crate) fn entry(&self, source: &str) -> Value {
        let dependencies: Vec<&str> = self
            .fields
            .iter()
            .filter(|(name, _)| ["Depends", "Imports", "LinkingTo"].contains(&name.as_str()))
            .flat_map(|(_, value)| value.split(", "))
            .filter(|name| !name.starts_with("R ("))
            .collect();
        json!({
            "ref": self.name,
            "package": self.name,
            "version": self.version,
            "type": "standard",
            "direct": true,
            "binary": false,
            "dependencies": dependencies,
            "vignettes": false,
            "needscompilation": self.files.keys().any(|path| path.starts_with("src/")),
            "metadata": {
                "RemoteType": "standard",
                "RemotePkgRef": self.name,
                "RemoteRef": self.name,
                "RemotePkgPlatform": "source",
                "RemoteSha": self.version,
            },
            "sources": [source],
            "target": format!("src/contrib/{}_{}.tar.gz", self.name, self.version),
            "platform": "source",
            "rversion": "*",
            "directpkg": true,
            "license": "GPL-3",
            "dep_types": ["Depends", "Imports", "LinkingTo"],
            "params": [],
            "install_args": "",
            "sysreqs": "",
        })
    }
}
