//! An R that is a shell script: it answers the probe, "installs" by copying DESCRIPTION, and counts its starts.
//!
//! For what real R cannot be made to do, and where a real build for every step would take minutes.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use fs_err as fs;

use super::World;

/// Where the fake lies in its world.
pub(crate) struct FakeR {
    /// The executable, for `--r`.
    pub(crate) path: PathBuf,
    starts: PathBuf,
}

impl FakeR {
    /// Makes one in this world. `install` is what it does for `R CMD INSTALL`, as shell code that finds the
    /// library in `$library`, the source in `$source` and the package's name in `$package`.
    pub(crate) fn new(world: &World, install: &str) -> Self {
        world.write("r/etc/Makeconf", "CC = sh\nCXX = sh\n");
        world.write("r/library/base/DESCRIPTION", "Package: base\nVersion: 4.2.2\n");
        let (home, starts) = (world.path("r"), world.path("starts"));
        let script = format!(
            "#!/bin/sh\n\
             echo \"$1\" >> '{starts}'\n\
             if [ \"$1\" != CMD ]; then\n\
             printf '%s\\n' '{home}' '{home}/library' 4.2.2 x86_64-pc-linux-gnu x86_64 linux-gnu\nexit\nfi\n\
             for word; do case $word in --library=*) library=${{word#--library=}} ;; esac; source=$word; done\n\
             package=$(sed -n 's/^Package: //p' \"$source/DESCRIPTION\")\n\
             {install}\n",
            home = home.display(),
            starts = starts.display(),
        );
        let path = world.write("r/bin/R", script);
        fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        Self { path, starts }
    }

    /// Makes one whose installations work.
    pub(crate) fn working(world: &World) -> Self {
        Self::new(
            world,
            "mkdir \"$library/$package\"\n\
             { cat \"$source/DESCRIPTION\"; echo 'Built: R 4.2.2; ; 2000-01-01 00:00:00 UTC; unix'; } \
             > \"$library/$package/DESCRIPTION\"",
        )
    }

    /// Returns how often it was started, by its first argument.
    pub(crate) fn starts(&self) -> Vec<String> {
        let text = fs::read_to_string(&self.starts).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }
}
