//! Why a package is built although its source was built before: what differs from the build of before.

use crate::key::PackageKey;
use crate::store::{BuiltAgainst, Sidecar};

/// Says in which of the packages that it links to, or in which setting, a build differs from an earlier one of the
/// same source. Names what changed itself, and what it came through: `Rcpp 1.0.14 -> 1.0.15 (through RcppEigen)`.
pub fn difference(before: &Sidecar, now: &PackageKey) -> String {
    let closure = now.linked_closure();
    let mut changes = Vec::new();
    let mut through = Vec::new();
    for (name, key) in &closure {
        let now = BuiltAgainst::new(key);
        match before.linked.get(*name) {
            None => changes.push(format!("{name} {} (not linked to before)", now.version)),
            Some(before) if before.version != now.version => {
                changes.push(format!("{name} {} -> {}", before.version, now.version));
            }
            Some(before) if before.reference.source != now.reference.source => changes.push(format!(
                "{name} {} ({} -> {})",
                now.version,
                before.reference.source.short(),
                now.reference.source.short()
            )),
            Some(before) if before.reference != now.reference => through.push(name.to_string()),
            Some(_) => {}
        }
    }
    if before.linked.is_empty() {
        // A sidecar that somebody else wrote knows keys only.
        let links = before.config.iter().filter(|(name, _)| !name.starts_with('@'));
        changes =
            links.filter(|(name, key)| now.config().get(name) != Some(key)).map(|(name, _)| name.to_owned()).collect();
    }
    for (name, value) in now.config().iter().filter(|(name, _)| name.starts_with('@')) {
        if before.config.get(name) != Some(value) {
            changes.push(format!("{} changed", name.trim_start_matches('@')));
        }
    }
    for (name, _) in before.config.iter().filter(|(name, _)| name.starts_with('@') && now.config().get(name).is_none())
    {
        changes.push(format!("{} no longer counts", name.trim_start_matches('@')));
    }
    for (name, was) in before.linked.iter().filter(|(name, _)| !closure.contains_key(name)) {
        changes.push(format!("{name} {} (no longer linked to)", was.version));
    }
    let mut text = changes.join(", ");
    if !changes.is_empty() && !through.is_empty() {
        text = format!("{text} (through {})", through.join(", "));
    }
    text
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::digest::Sha256Digest;
    use crate::key::ConfigMap;
    use crate::package::PackageName;

    fn key(package: &str, version: &str, linked: &[&Arc<PackageKey>]) -> Arc<PackageKey> {
        let source = Sha256Digest::of(format!("{package} {version}").as_bytes());
        let linked = linked.iter().map(|key| Arc::clone(key)).collect();
        let name = PackageName::parse(package).unwrap();
        Arc::new(PackageKey::new(name, version.to_owned(), source, linked, &ConfigMap::default()))
    }

    #[test]
    fn the_package_that_changed_is_named_with_both_versions_and_the_way() {
        let build = |rcpp: &str| {
            let rcpp = key("Rcpp", rcpp, &[]);
            let eigen = key("RcppEigen", "0.3", &[&rcpp]);
            key("top", "1.0", &[&eigen])
        };
        let before = Sidecar::new(&build("1.0.14"), Duration::ZERO);
        assert_eq!(difference(&before, &build("1.0.15")), "Rcpp 1.0.14 -> 1.0.15 (through RcppEigen)");
        assert_eq!(difference(&before, &build("1.0.14")), "");
    }

    #[test]
    fn a_change_of_settings_is_named() {
        let plain = key("top", "1.0", &[]);
        let special = [("@makevars", "x")].into_iter().collect();
        let source = plain.reference().source;
        let changed = PackageKey::new(plain.package().clone(), "1.0".to_owned(), source, Vec::new(), &special);
        assert_eq!(difference(&Sidecar::new(&plain, Duration::ZERO), &changed), "makevars changed");
        assert_eq!(difference(&Sidecar::new(&changed, Duration::ZERO), &plain), "makevars no longer counts");
    }
}
