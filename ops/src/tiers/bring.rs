//! From a tier into the store: unpacked and verified while it arrives.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures_util::StreamExt;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::entry::{self, Refusal};
use super::objects::{ObjectError, Pieces};
use super::{Address, Tier, Tiers, permits};
use crate::key::Reference;
use crate::package::PackageName;
use crate::store::transfer::ImportError;
use crate::store::{Store, StoreError};

/// What is slower than this, in bytes a second, is given up: building is likely to be faster.
const RATE_MIN: u64 = 32 << 10;
/// How many pieces may wait to be unpacked.
const PIECES_MAX: usize = 16;

/// How bringing an entry from one tier ended, if it did not bring it.
enum Failure {
    /// The tier is at fault.
    Tier(ObjectError),
    /// The object is.
    Object(Refusal),
    /// The store cannot take it.
    Store(StoreError),
}

impl Tiers {
    /// Brings an entry into `store` from the first tier that has it whole and trusted; says which one that was.
    ///
    /// An error is one of the store; what is wrong with tiers is told once by [`Tiers::warnings`].
    pub async fn bring(
        self: &Arc<Self>,
        store: &Arc<Store>,
        package: &PackageName,
        reference: Reference,
    ) -> Result<Option<Address>, StoreError> {
        self.survey(store.platform(), [(package.clone(), reference.source)]).await;
        let indexes = self.indexes(store.platform(), package, reference.source).unwrap_or_default();
        for (n, (tier, index)) in self.chain.iter().zip(indexes.iter()).enumerate() {
            // A tier without an index of the source has nothing of it. One with an index may have more than that says.
            let Some(index) = index.as_ref().filter(|_| tier.is_read() && tier.moving.admits()) else { continue };
            let size = index.entries.get(&reference.config).map_or(0, |held| held.size);
            let _permit = self.in_flight.acquire_many(permits(size)).await.expect("it is never closed");
            match self.bring_from(tier, store, package, reference).await {
                Ok(None) => {}
                Ok(Some(bytes)) => {
                    tier.moving.note(true);
                    self.traffic.n_brought.fetch_add(1, Ordering::Relaxed);
                    self.traffic.bytes_brought.fetch_add(bytes, Ordering::Relaxed);
                    self.push_to(store, package, reference, |other| other < n);
                    return Ok(Some(tier.address.clone()));
                }
                Err(Failure::Store(error)) => return Err(error),
                Err(Failure::Tier(error)) => drop(self.note::<()>(tier, &tier.moving, Err(error))),
                Err(Failure::Object(refusal)) => {
                    if refusal.is_damage() {
                        tier.damaged().insert(self.entry_name(store.platform(), package, reference));
                    }
                    self.warn(tier, &format!("its entry of {package} is passed over: {refusal}"));
                }
            }
        }
        Ok(None)
    }

    async fn bring_from(
        &self,
        tier: &Tier,
        store: &Arc<Store>,
        package: &PackageName,
        reference: Reference,
    ) -> Result<Option<u64>, Failure> {
        let name = self.entry_name(store.platform(), package, reference);
        let opened = tokio::time::timeout(tier.address.timeout, tier.objects.open(&name)).await;
        let Some(pieces) = opened.unwrap_or_else(|_| Err(tier.is_silent())).map_err(Failure::Tier)? else {
            return Ok(None);
        };
        let (sender, receiver) = mpsc::channel(PIECES_MAX);
        let (store, wanted) = (Arc::clone(store), self.wanted(package, reference));
        let (trust, libraries) = (tier.address.trust.clone(), self.libraries.clone());
        let unpacking = tokio::task::spawn_blocking(move || {
            entry::unpack(
                &store,
                &wanted,
                &trust,
                &libraries,
                Arrival { receiver, piece: Bytes::new(), is_whole: false },
            )
        });
        let fed = feed(tier, pieces, sender).await;
        let unpacked = match unpacking.await {
            Ok(unpacked) => unpacked,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        };
        match (fed, unpacked) {
            (_, Err(Refusal::Import(ImportError::Store(error)))) => Err(Failure::Store(error)),
            (_, Err(Refusal::Import(ImportError::Io(error)))) => Err(Failure::Store(error.into())),
            // What broke off cannot be whole.
            (Err(error), Err(_)) => Err(Failure::Tier(error)),
            (_, Err(refusal)) => Err(Failure::Object(refusal)),
            (Ok(bytes), Ok(_)) => Ok(Some(bytes)),
            (Err(_), Ok(_)) => Ok(Some(0)),
        }
    }
}

/// Hands on what arrives, until the end, or until nobody wants more. Returns how many bytes that were.
async fn feed(tier: &Tier, mut pieces: Pieces, sender: mpsc::Sender<Option<Bytes>>) -> Result<u64, ObjectError> {
    let (start, patience, mut n_bytes, mut waited) = (Instant::now(), tier.address.timeout, 0_u64, Duration::ZERO);
    loop {
        let asked = Instant::now();
        let piece = match tokio::time::timeout(patience, pieces.next()).await {
            Ok(Some(piece)) => piece?,
            Ok(None) => break,
            Err(_) => return Err(tier.is_silent()),
        };
        // The time that unpacking takes is not the tier's.
        waited += asked.elapsed();
        n_bytes += piece.len() as u64;
        let needed = Duration::from_secs(n_bytes / RATE_MIN);
        if start.elapsed() > patience && waited > patience + needed {
            return Err(ObjectError(format!("it sends less than {} KiB a second", RATE_MIN >> 10)));
        }
        for bytes in piece {
            if sender.send(Some(bytes)).await.is_err() {
                return Ok(n_bytes);
            }
        }
    }
    let _ = sender.send(None).await;
    Ok(n_bytes)
}

/// The pieces as a reader; that they end too early is an error.
struct Arrival {
    receiver: mpsc::Receiver<Option<Bytes>>,
    piece: Bytes,
    is_whole: bool,
}

impl Read for Arrival {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() && !self.is_whole {
            match self.receiver.blocking_recv() {
                Some(Some(piece)) => self.piece = piece,
                Some(None) => self.is_whole = true,
                None => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it broke off")),
            }
        }
        let n = self.piece.len().min(buffer.len());
        self.piece.copy_to_slice(&mut buffer[..n]);
        Ok(n)
    }
}
