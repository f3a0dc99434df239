//! Named pools of scarce things, as counters: how much there is, and how much a phase of an op takes.

/// How much of each scarce thing the ops of one run may take together. A pool that is not named here has no limit.
///
/// ```
/// use larder_graph::{Limits, Resources};
///
/// let limits = Limits::new().pool("cpu", 4).pool("memory", 8_000);
/// assert_eq!((limits.size("cpu"), limits.size("network")), (Some(4), None));
/// // For `Op::resources`: two cores and half the memory, all at once or not yet.
/// let heavy = Resources::none().take("cpu", 2).take("memory", 4_000);
/// # assert_ne!(heavy, Resources::none());
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    pools: Vec<(&'static str, u32)>,
}

impl Limits {
    /// Starts with no limit.
    pub fn new() -> Self {
        Self::default()
    }

    /// Limits the pool `name` to `size` units, to one if `size` is zero. Said twice, the last size counts.
    ///
    /// # Panics
    /// When there would be more than 64 pools.
    #[must_use]
    pub fn pool(mut self, name: &'static str, size: u32) -> Self {
        let size = size.max(1);
        match self.pools.iter_mut().find(|(known, _)| *known == name) {
            Some(pool) => pool.1 = size,
            None => self.pools.push((name, size)),
        }
        assert!(self.pools.len() <= 64, "a run has at most 64 pools");
        self
    }

    /// Returns the size of the pool `name`, if it has a limit.
    pub fn size(&self, name: &str) -> Option<u32> {
        self.pools.iter().find(|(known, _)| *known == name).map(|(_, size)| *size)
    }

    pub(crate) fn pools(&self) -> &[(&'static str, u32)] {
        &self.pools
    }
}

/// What one phase of one op occupies while it runs: all of it or, until all is free, nothing.
///
/// ```
/// use larder_graph::Resources;
///
/// let link = Resources::none().take("cpu", 1).take("memory", 4_000);
/// assert_eq!(link, Resources::default().take("cpu", 1).take("memory", 4_000));
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resources {
    takes: Vec<(&'static str, u32)>,
}

impl Resources {
    /// Occupies nothing.
    pub fn none() -> Self {
        Self::default()
    }

    /// Occupies `amount` more units of `pool`. More than the pool has means: the whole pool.
    #[must_use]
    pub fn take(mut self, pool: &'static str, amount: u32) -> Self {
        self.takes.push((pool, amount));
        self
    }

    pub(crate) fn takes(&self) -> &[(&'static str, u32)] {
        &self.takes
    }
}
