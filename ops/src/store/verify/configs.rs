//! What `configs.json` of a source says, and what it should say.

use std::io;

use crate::fault::fs;

use crate::digest::Sha256Digest;
use crate::fs::remove_all;
use crate::key::{ConfigMap, Reference};
use crate::package::PackageName;
use crate::store::entry::{self, Problem, Wrong};
use crate::store::{CONFIGS, Configs, Sidecar, Store};

impl Store {
    /// Compares `configs.json` with the entries that are there.
    pub(super) fn configs_problems(&self, package: &PackageName, source: Sha256Digest) -> Vec<Wrong> {
        let path = self.source_dir(package, source).join(CONFIGS);
        let lie = |why: String| (path.clone(), Problem::Lie(why));
        let expected = self.true_configs(package, source);
        let file: Configs = match fs::read(&path) {
            Ok(bytes) => match serde_json::from_slice(&bytes) {
                Ok(file) => file,
                Err(error) => return vec![(path, Problem::Unreadable(error.to_string()))],
            },
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return vec![(path, Problem::Unreadable(error.to_string()))];
            }
            Err(_) if expected.configs.is_empty() => return Vec::new(),
            Err(_) => return vec![(path, Problem::Missing)],
        };
        let mut wrong = Vec::new();
        for (config, map) in &file.configs {
            if map.hash() != *config {
                wrong.push(lie(format!("what it says of `{}` is not what that was made with", config.short())));
            } else if !expected.configs.contains_key(config) {
                wrong.push(lie(format!("it names `{}`, which is not there", config.short())));
            }
        }
        let lacking = expected.configs.keys().filter(|config| !file.configs.contains_key(*config));
        wrong.extend(lacking.map(|config| lie(format!("it lacks `{}`, which is there", config.short()))));
        if !expected.configs.is_empty()
            && (&file.linkingto, file.source_compiled) != (&expected.linkingto, expected.source_compiled)
        {
            wrong.push(lie("its `linkingto` or `source_compiled` is in no sidecar".to_owned()));
        }
        wrong
    }

    /// Returns what `configs.json` should say. Where sidecars differ, or say nothing, the file is believed.
    fn true_configs(&self, package: &PackageName, source: Sha256Digest) -> Configs {
        let file = self.configs_file(package, source);
        let known = file.as_ref().map(|file| &file.configs);
        let config_of = |config: Sha256Digest, sidecar: &Sidecar| -> Option<ConfigMap> {
            let candidates = [Some(&sidecar.config), known.and_then(|known| known.get(&config))];
            candidates.into_iter().flatten().find(|map| map.hash() == config).cloned()
        };
        let mut sidecars = self.sidecars_here(package, source);
        sidecars.retain(|(config, ..)| self.lookup_here(package, Reference { source, config: *config }).is_some());
        let of_sidecar = |sidecar: &Sidecar| (sidecar.linkingto.clone(), sidecar.source_compiled);
        let ours: Vec<_> = sidecars.iter().filter(|(_, _, sidecar)| !sidecar.package.is_empty()).collect();
        let said = file.as_ref().map(|file| (file.linkingto.clone(), file.source_compiled));
        let is_said =
            |said: &(Vec<PackageName>, bool)| ours.is_empty() || ours.iter().any(|(_, _, s)| of_sidecar(s) == *said);
        let newest = || ours.first().map(|(_, _, sidecar)| of_sidecar(sidecar)).unwrap_or_default();
        let (linkingto, source_compiled) = said.filter(is_said).unwrap_or_else(newest);
        let configs = sidecars.iter().filter_map(|(config, _, sidecar)| Some((*config, config_of(*config, sidecar)?)));
        Configs { source_compiled, linkingto, configs: configs.collect() }
    }

    /// Makes `configs.json` say what is there. The caller holds the source's lock.
    pub(in crate::store) fn mend_configs(&self, package: &PackageName, source: Sha256Digest) -> io::Result<()> {
        let (path, configs) = (self.source_dir(package, source).join(CONFIGS), self.true_configs(package, source));
        if configs.configs.is_empty() {
            return remove_all(&path);
        }
        entry::write_flushed(&self.stage()?, &path, &serde_json::to_vec_pretty(&configs)?)
    }
}
