//! Which toolchains a tier has packages of. A machine without compilers has no platform of its own: it takes one that
//! has the same R on the same system.

use std::collections::BTreeMap;
use std::sync::PoisonError;

use serde::{Deserialize, Serialize};

use super::{Tier, Tiers};
use crate::store::Store;

/// Platforms that differ in their toolchain alone.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Platforms {
    /// By name, the text behind it, in lines.
    platforms: BTreeMap<String, Vec<String>>,
}

/// Returns a platform's name without its toolchain.
fn base(platform: &str) -> &str {
    platform.rsplit_once("-g").map_or(platform, |(base, _)| base)
}

impl Tiers {
    /// Returns the platforms that tiers have packages of and that differ from `platform` in their toolchain alone, each
    /// with the text behind it; those of earlier tiers first.
    pub async fn platforms_like(&self, platform: &str) -> Vec<(String, String)> {
        let mut all: Vec<(String, String)> = Vec::new();
        for tier in self.chain.iter().filter(|tier| tier.is_read()) {
            let name = self.platforms_name(platform);
            let Some(Some((bytes, _))) = self.ask(tier, tier.objects.read(&name)).await else { continue };
            let listed: Platforms = serde_json::from_slice(&bytes).unwrap_or_default();
            let fitting = listed.platforms.into_iter().filter(|(name, _)| base(name) == base(platform));
            all.extend(fitting.map(|(name, lines)| (name, lines.join("\n"))));
        }
        let mut seen = std::collections::BTreeSet::new();
        all.retain(|(name, _)| seen.insert(name.clone()));
        all
    }

    /// Makes it known that a tier has packages of this store's platform; once for each process.
    pub(super) async fn announce_platform(&self, tier: &Tier, store: &Store) -> Option<()> {
        let is_new = {
            let mut announced = tier.announced.lock().unwrap_or_else(PoisonError::into_inner);
            announced.insert(store.platform().to_owned())
        };
        if !is_new {
            return Some(());
        }
        let lines: Vec<String> = store.description().lines().map(str::to_owned).collect();
        self.change(tier, &self.platforms_name(store.platform()), |bytes| {
            let known = bytes.and_then(|bytes| serde_json::from_slice::<Platforms>(bytes).ok());
            let mut known = known.unwrap_or_default();
            let before = known.platforms.insert(store.platform().to_owned(), lines.clone());
            (before.as_ref() != Some(&lines)).then(|| serde_json::to_vec(&known).expect("names and lines are JSON"))
        })
        .await
    }

    fn platforms_name(&self, platform: &str) -> String {
        format!("{}/{}/platforms.json", self.tenant, base(platform))
    }
}
