//! From the store into tiers, in the background: for an upload no run waits but at its end, and there not for ever.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use opendal::Buffer;

use super::index::{self, Index};
use super::objects::{Expect, ObjectError};
use super::{Source, Tier, Tiers, entry};
use crate::blocking;
use crate::key::Reference;
use crate::package::PackageName;
use crate::store::Store;

/// What a tier that takes fewer bytes a second than this is no tier to write to.
const RATE_MIN: u64 = 32 << 10;
/// How often an index is read again because somebody else changed it meanwhile.
const ATTEMPTS_MAX: u32 = 8;

impl Tiers {
    /// Writes an entry of `store` to all tiers that may be written and lack it, in the background.
    pub fn push(self: &Arc<Self>, store: &Arc<Store>, package: &PackageName, reference: Reference) {
        self.push_to(store, package, reference, |_| true);
    }

    pub(super) fn push_to(
        self: &Arc<Self>,
        store: &Arc<Store>,
        package: &PackageName,
        reference: Reference,
        is_wanted: impl Fn(usize) -> bool,
    ) {
        let wanted = |(n, tier): &(usize, &Arc<Tier>)| tier.address.is_writable && is_wanted(*n);
        let tiers: Vec<usize> = self.chain.iter().enumerate().filter(wanted).map(|(n, _)| n).collect();
        if tiers.is_empty() {
            return;
        }
        let (chain, store, package) = (Arc::clone(self), Arc::clone(store), package.clone());
        let mut uploads = self.uploads.lock().unwrap_or_else(PoisonError::into_inner);
        uploads.spawn(async move { chain.upload(&store, &package, reference, &tiers).await });
    }

    /// Waits for the uploads; what is not done after `patience` is given up. Returns how many that were.
    pub async fn finish(&self, patience: Duration) -> usize {
        let mut uploads = std::mem::take(&mut *self.uploads.lock().unwrap_or_else(PoisonError::into_inner));
        let all = async { while uploads.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(patience, all).await;
        let given_up = uploads.len();
        uploads.shutdown().await;
        given_up
    }

    async fn upload(&self, store: &Arc<Store>, package: &PackageName, reference: Reference, tiers: &[usize]) {
        let _permit = self.uploading.acquire().await.expect("it is never closed");
        let name = self.entry_name(store.platform(), package, reference);
        let source = Source { platform: store.platform().to_owned(), package: package.clone(), hash: reference.source };
        self.survey(store.platform(), [(package.clone(), reference.source)]).await;
        let indexes = self.indexes(store.platform(), package, reference.source).unwrap_or_default();
        let mut lacking = Vec::new();
        for n in tiers {
            let (tier, index) = (&self.chain[*n], indexes.get(*n).and_then(Option::as_ref));
            if tier.damaged().contains(&name) {
                lacking.push((tier, Expect::Anything));
                continue;
            }
            match self.ask(tier, tier.objects.size(&name)).await {
                Some(None) => lacking.push((tier, Expect::Nothing)),
                // Without an index nobody would find it.
                Some(Some(size)) if !index.is_some_and(|index| index.has(reference.config)) => {
                    if let Some(sidecar) = store.sidecar(package, reference) {
                        self.announce(tier, store, &source, &Index::of(reference.config, &sidecar, size)).await;
                    }
                }
                _ => {}
            }
        }
        if lacking.is_empty() {
            return;
        }
        // The signer is used here, since a key does not leave its owner.
        let packed = {
            let (store, wanted) = (Arc::clone(store), self.wanted(package, reference));
            let signer = self.signer.clone();
            blocking(move || entry::pack(&store, &wanted, signer.as_deref())).await
        };
        let (object, sidecar) = match packed {
            Ok(packed) => packed,
            Err(error) => {
                let message = format!("{package} is not written to any cache: {error}");
                self.warnings.lock().unwrap_or_else(PoisonError::into_inner).push(message);
                return;
            }
        };
        let size = object.len() as u64;
        let (object, index) = (Buffer::from(object), Index::of(reference.config, &sidecar, size));
        for (tier, expect) in lacking {
            if !tier.moving.admits() {
                continue;
            }
            let patience = tier.address.timeout + Duration::from_secs(size / RATE_MIN);
            let written = tier.objects.write(&name, object.clone(), expect);
            let written = tokio::time::timeout(patience, written).await.unwrap_or_else(|_| Err(tier.is_silent()));
            // The entry first: an index may lack what is there, but not have what is not.
            if self.note(tier, &tier.moving, written).is_some()
                && self.announce(tier, store, &source, &index).await.is_some()
            {
                self.traffic.n_pushed.fetch_add(1, Ordering::Relaxed);
                self.traffic.bytes_pushed.fetch_add(size, Ordering::Relaxed);
            }
        }
    }

    async fn announce(&self, tier: &Tier, store: &Store, source: &Source, index: &Index) -> Option<()> {
        self.announce_platform(tier, store).await?;
        let name = format!("{}/{}", self.folder(&source.platform, &source.package, source.hash), index::NAME);
        self.change(tier, &name, |bytes| {
            let mut known: Index = bytes.and_then(|bytes| serde_json::from_slice(bytes).ok()).unwrap_or_default();
            known.take_in(index).then(|| serde_json::to_vec(&known).expect("an index is JSON"))
        })
        .await
    }

    /// Changes a small object that others may change too: where the tier can tell, no change of another is lost.
    pub(super) async fn change(
        &self,
        tier: &Tier,
        name: &str,
        change: impl Fn(Option<&[u8]>) -> Option<Vec<u8>>,
    ) -> Option<()> {
        for _ in 0..ATTEMPTS_MAX {
            let read = self.ask(tier, tier.objects.read(name)).await?;
            let (bytes, expect) = match read {
                None => (None, Expect::Nothing),
                Some((bytes, None)) => (Some(bytes), Expect::Anything),
                Some((bytes, Some(tag))) => (Some(bytes), Expect::Tag(tag)),
            };
            let Some(changed) = change(bytes.as_deref()) else { return Some(()) };
            if self.ask(tier, tier.objects.write(name, Buffer::from(changed), expect)).await? {
                return Some(());
            }
        }
        self.note(tier, &tier.asking, Err(ObjectError(format!("`{name}` is changed by others all the time"))))
    }
}
