//! What the core keeps of each vertex, build and flight.

use std::ops::{BitOr, BitOrAssign, Sub};
use std::sync::Arc;

use super::known::{KeyId, Keys, Listed};
use super::lists::Chain;
use super::nodes::NodeInputs;
pub(crate) use super::nodes::{NodeId, Nodes, SiteId};
use crate::cache::{Cache, Record};
use crate::context::{Context, FlightId, Made};
use crate::dag::{Dag, VertexId};
use crate::error::Failure;
use crate::few::Few;
use crate::op::{CacheMap, Op, Part, Phase};
use crate::ready::{Demand, JobId};

/// One graph with its targets, submitted by a job or by a running op.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct BuildId(pub(crate) u32);

/// One content that some cache map needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct ContentId(pub(crate) u32);

/// What a build wants of a node. Each includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wants(u8);

impl Wants {
    pub(crate) const NOTHING: Self = Self(0);
    pub(crate) const KEY: Self = Self(1);
    pub(crate) const RESULT: Self = Self(1 | 2);
    /// The result, and those of all that is below.
    pub(crate) const COMPLETE: Self = Self(1 | 2 | 4);

    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(crate) fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

impl BitOr for Wants {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOrAssign for Wants {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

impl Sub for Wants {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

/// A build's interest in a node. As long as there is one the node exists, and keeps its result.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Hold {
    pub(crate) build: BuildId,
    /// The node's place in the build's own graph; `None` if it came in by a late edge of another's.
    pub(crate) vertex: Option<VertexId>,
    pub(crate) wants: Wants,
    pub(crate) is_target: bool,
    /// The build was told how the node ended.
    pub(crate) is_told: bool,
}

/// Where a node is. Exactly one of these at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// Nothing is under way: nobody wants more than there is, or `pursue` is about to look at it.
    Idle,
    /// This may start as soon as its turn comes and its resources are free.
    Queued(Stage),
    /// A flight works for it, its own or that of another node with the same key.
    Started(FlightId),
    /// Its cache map is there; so many of the keys and contents that the map needs are not.
    Keying { n_unmet: u32 },
    /// It must be made; not all its inputs are there.
    Waiting,
    /// A flight that nobody wanted any more works on the same key; this one starts when that has ended.
    Parked,
    /// For good.
    Settled(Ending),
}

/// The next thing that a node does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    Map,
    Query,
    Load,
    Execute,
}

/// How a node ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    Loaded,
    Executed,
    /// It has no result and never will; see [`Node::lost_to`].
    HasNone,
}

/// Two lines of the CPU's cache, whatever the op. All that changes in a node when its inputs settle is in the first one: in
/// a large graph that is the first look at it since long, and each further line would be another wait.
#[repr(C, align(128))]
pub(crate) struct Node<O: Op> {
    pub(crate) holds: Few<Hold>,
    /// The work, from this node's own to the end of the longest chain of dependants.
    pub(crate) priority: u64,
    pub(crate) state: State,
    /// Counts changes of state; what was filed under another number is out of date.
    pub(crate) ticket: u32,
    /// Inputs that have no result.
    pub(crate) n_missing: u32,
    /// Inputs that are not complete. Zero and a result: the node is complete.
    pub(crate) n_incomplete: u32,
    /// What dependants build their keys from. Never changes.
    pub(crate) key: Option<KeyId>,
    /// Where the op stands: in the graph of one of the builds that hold the node.
    pub(crate) vertex: VertexId,
    pub(super) site: SiteId,
    /// There are no more cache maps.
    pub(crate) is_exhausted: bool,
    /// Since no cache had the result, another node came to have it.
    pub(crate) asks_again: bool,
    /// No cache may answer for this node ([`VertexOptions::ignores_cache`](crate::VertexOptions)).
    pub(crate) ignores_cache: bool,
    /// The key stands for a result that must be made anew.
    pub(crate) is_fresh: bool,
    // The second line begins here.
    pub(crate) made: Option<Arc<Made<O>>>,
    /// The latest cache map's key, as long as there is no final one; and whether that map needs a content.
    pub(crate) probe: Option<Box<(O::Key, bool)>>,
    /// The map of a node that is `Keying`, with the nodes that it names.
    pub(crate) keying: Option<Box<Keying<O::Key>>>,
    /// What few nodes have.
    pub(crate) more: Option<Box<More<O>>>,
    /// See [`Nodes::inputs`].
    pub(super) inputs: NodeInputs,
    /// See [`Nodes::dependants`].
    pub(super) dependants: Chain,
    /// Who waits for the final key.
    pub(crate) waiters: Chain,
    /// The failed node because of which this one never gets complete; itself, if it failed itself.
    pub(crate) lost_to: Option<NodeId>,
    /// The cache map it is at.
    pub(crate) map_index: u16,
    /// The cache map it is at says that it is the last one.
    pub(crate) is_last_map: bool,
    /// Among the nodes with the same key.
    pub(crate) listed: Option<Listed>,
}

pub(crate) struct More<O: Op> {
    /// Inputs that cache maps named besides the graph's edges.
    pub(crate) n_late: usize,
    /// The keys of earlier cache maps, and whether they need a content; later all keys but the final one.
    pub(crate) tried: Vec<(O::Key, bool)>,
    /// Results in caches, the best one last.
    pub(crate) records: Vec<Record<O::Key>>,
    /// Records that could not be loaded, not to be tried again.
    pub(crate) bad: Vec<Record<O::Key>>,
    /// The record that the result was loaded from.
    pub(crate) loaded_from: Option<Record<O::Key>>,
    pub(crate) failure: Option<Arc<Failure<O::Error>>>,
    /// The cache to ask, if it is not the solver's.
    pub(crate) cache: Option<Cache<O>>,
}

impl<O: Op> Node<O> {
    pub(crate) fn hold(&self, build: BuildId) -> Option<&Hold> {
        self.holds.iter().find(|hold| hold.build == build)
    }

    pub(crate) fn hold_mut(&mut self, build: BuildId) -> Option<&mut Hold> {
        self.holds.iter_mut().find(|hold| hold.build == build)
    }

    pub(crate) fn more(&mut self) -> &mut More<O> {
        self.more.get_or_insert_with(|| {
            let (tried, records, bad) = (Vec::new(), Vec::new(), Vec::new());
            Box::new(More { n_late: 0, tried, records, bad, loaded_from: None, failure: None, cache: None })
        })
    }

    /// Returns how many inputs are no edges of the graph.
    pub(crate) fn n_late(&self) -> usize {
        self.more.as_ref().map_or(0, |more| more.n_late)
    }

    pub(crate) fn has_record(&self) -> bool {
        self.more.as_ref().is_some_and(|more| !more.records.is_empty())
    }

    pub(crate) fn is_settled(&self) -> bool {
        matches!(self.state, State::Settled(_))
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.n_incomplete == 0 && self.made.is_some()
    }

    /// Returns the keys besides its own that lead to it.
    pub(crate) fn links(&self, keys: &Keys<O::Key>) -> Vec<O::Key> {
        let own = self.key.map(|key| &keys[key]);
        let tried = self.more.iter().flat_map(|more| &more.tried).map(|(key, _)| key);
        let mut links: Vec<O::Key> = Vec::new();
        for key in tried.chain(self.probe.as_ref().map(|probe| &probe.0)) {
            if own != Some(key) && !links.contains(key) {
                links.push(key.clone());
            }
        }
        links
    }
}

/// A cache map with what it needs.
pub(crate) type Keying<K> = (CacheMap<K>, Needed);

/// What a cache map needs, and of which nodes.
pub(crate) enum Needed {
    /// The keys of the node's inputs, one by one; nearly always.
    Inputs,
    /// Keys, and contents of parts.
    These(Box<[(NodeId, Option<Box<Part>>)]>),
}

impl Needed {
    pub(crate) fn len(&self, inputs: &[NodeId]) -> usize {
        match self {
            Self::Inputs => inputs.len(),
            Self::These(these) => these.len(),
        }
    }

    pub(crate) fn get<'a>(&'a self, inputs: &[NodeId], place: usize) -> (NodeId, Option<&'a Part>) {
        match self {
            Self::Inputs => (inputs[place], None),
            Self::These(these) => (these[place].0, these[place].1.as_deref()),
        }
    }
}

/// Who waits for a key: a node with its ticket, or the content of the keyed node itself.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Waiter {
    Node(NodeId, u32),
    Content(ContentId),
}

/// Why a build starts nothing any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Drain {
    /// This node failed, and the build stops at the first failure. What runs is kept.
    Failed(NodeId),
    /// It was asked to.
    Stopped,
    /// All targets are settled.
    Done,
}

#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own; where the build is, is the drain")]
pub(crate) struct Build<O: Op> {
    pub(crate) owner: Owner,
    pub(crate) site: SiteId,
    pub(crate) dag: Arc<Dag<O>>,
    /// By vertex: its node, if the targets may need it.
    pub(crate) nodes: Vec<Option<NodeId>>,
    /// All nodes that this build holds.
    pub(crate) held: Vec<NodeId>,
    pub(crate) targets: Vec<VertexId>,
    pub(crate) n_targets_open: usize,
    pub(crate) is_fail_fast: bool,
    pub(crate) drain: Option<Drain>,
    /// While it drains: the nodes it wants for which a flight is under way.
    pub(crate) n_running: usize,
    pub(crate) is_finished: bool,
    /// It came to wait for the very flight that asked for it, and was stopped for that.
    pub(crate) is_circular: bool,
    /// To be forgotten as soon as it is finished.
    pub(crate) is_released: bool,
}

impl<O: Op> Build<O> {
    /// Says whether the build has no use any more for what runs.
    pub(crate) fn lets_go(&self) -> bool {
        matches!(self.drain, Some(Drain::Stopped | Drain::Done))
    }
}

/// In whose name a build is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    Job(JobId),
    Flight(FlightId),
}

/// A phase that runs.
pub(crate) struct Flight<O: Op> {
    pub(crate) role: Role,
    pub(crate) phase: Phase,
    /// Whom it works for; for a content, nobody.
    pub(crate) attached: Few<NodeId>,
    /// What its op knows.
    pub(crate) context: Context<O>,
    /// What it brings, for others who want the same; and whether it must be made anew.
    pub(crate) key: Option<(KeyId, bool)>,
    /// Nobody wanted it any more, and it was asked to end.
    pub(crate) is_doomed: bool,
    /// Who starts when it has ended, if they still want to.
    pub(crate) parked: Vec<(NodeId, u32)>,
    pub(crate) demand: Demand,
    /// Its builds that are not finished; while there are any it occupies nothing.
    pub(crate) n_sub_builds: u32,
    pub(crate) sub_builds: Vec<BuildId>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Node(Stage),
    Content(ContentId),
    /// See [`super::write`].
    Write,
}

/// The content of one part of a node's result.
pub(crate) struct Content<K> {
    pub(crate) input: NodeId,
    pub(crate) part: Part,
    pub(crate) state: ContentState<K>,
    /// Nodes that are `Keying` because of it, with their tickets.
    pub(crate) waiters: Vec<(NodeId, u32)>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ContentState<K> {
    /// The input has no key.
    AwaitsKey,
    /// A cache is to be asked for the digest, or was asked.
    Asking,
    /// No cache has it, and the input has no result yet.
    AwaitsResult,
    /// The op is to digest it, or does so.
    Digesting,
    Known(K),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Scripted;

    #[test]
    fn a_node_takes_two_lines_of_the_cpus_cache() {
        assert_eq!(size_of::<Option<Node<Scripted>>>(), 128);
        assert_eq!(std::mem::offset_of!(Node<Scripted>, made), 64);
    }
}
