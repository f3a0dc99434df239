//! `solve doctor`: what this machine has of what building takes.

use std::fmt::Write;
use std::path::Path;

use larder_ops::toolchain::Distro;

use super::settings::Settings;
use super::{CommandError, Env, config, read_lockfile};
use crate::cli::DoctorArgs;
use crate::exit::Exit;
use crate::host::Host;
use crate::system;
use crate::ui;

/// Collects findings; one that is bad makes the exit status 3.
#[derive(Default)]
struct Findings {
    text: String,
    is_bad: bool,
}

impl Findings {
    fn good(&mut self, what: &str, found: &str) {
        let _ = writeln!(self.text, "ok       {what:<9} {found}");
    }

    fn bad(&mut self, what: &str, found: &str, hint: &str) {
        self.is_bad = true;
        let _ = writeln!(self.text, "missing  {what:<9} {found}\n         {:<9} {hint}", "");
    }
}

pub(super) fn run(args: &DoctorArgs, settings: &Settings, env: &Env) -> Result<Exit, CommandError> {
    let lockfile = args.lockfile.as_deref().map(read_lockfile).transpose()?;
    let config = config(&args.place.store, args.place.r.as_deref(), None, env)?;
    let path = env.get("PATH").unwrap_or_default();
    let distro = Host::distro();
    let install = format!("`{}`", Distro::install_command(distro.as_ref()));
    let mut findings = Findings::default();
    match Host::probe(config.r.as_deref(), path, &config.store.join(".probes")) {
        Ok(host) => {
            findings.good("R", &format!("{} ({})", host.toolchain.version, host.toolchain.r.display()));
            findings.good("platform", &host.platform);
            for (variable, compiler) in &host.toolchain.compilers {
                match &compiler.path {
                    Some(_) => findings.good(variable, &compiler.version),
                    None => findings.bad(variable, &format!("`{}` is not on PATH", compiler.command), &install),
                }
            }
            if host.toolchain.missing_compilers(path).contains(&"make".to_owned()) {
                findings.bad("make", "not on PATH", &install);
            }
        }
        Err(error) => findings.bad("R", &error.to_string(), &install),
    }
    store(&mut findings, &config.store);
    for base in &config.base_stores {
        let shown = format!("{} (only read)", base.display());
        if base.is_dir() {
            findings.good("store", &shown);
        } else {
            findings.bad("store", &shown, "it is not there: correct `--store` or `LARDER_STORE`");
        }
    }
    for file in &settings.files {
        findings.good("config", &std::path::absolute(file)?.display().to_string());
    }
    if let Some(lockfile) = lockfile {
        let wanted: Vec<String> = lockfile.entries().iter().flat_map(|entry| entry.system_packages.clone()).collect();
        let mut missing = system::missing_packages(&wanted);
        missing.sort();
        missing.dedup();
        if missing.is_empty() {
            findings.good("system", &format!("nothing is known to be missing of {} wishes", wanted.len()));
        } else {
            let all = missing.join(" ");
            findings.bad("system", &all, &format!("`apt-get install {all}`"));
        }
    }
    ui::print_data(&findings.text);
    Ok(if findings.is_bad { Exit::Environment } else { Exit::Done })
}

fn store(findings: &mut Findings, store: &Path) {
    let made = fs_err::create_dir_all(store).and_then(|()| {
        let stat = rustix::fs::statvfs(store)?;
        tempfile::tempfile_in(store).map(|_| stat.f_bavail * stat.f_frsize)
    });
    match made {
        Ok(free) => findings.good("store", &format!("{} ({} MB free)", store.display(), free / 1_000_000)),
        Err(error) => findings.bad("store", &error.to_string(), "choose another place with `--store`"),
    }
}
