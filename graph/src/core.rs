//! The state machine: what each vertex needs next, which phase may start, and what follows when one ends.
//!
//! Pure and synchronous: no clock, no I/O, no task. It never looks into a result, it only knows who has one. Same calls
//! in the same order give the same starts in the same order.
//!
//! A *node* is a vertex, one for all builds that have it. Nodes do only what is wanted of them: a key, or a result.
//! A node goes through its cache maps one by one. Each gives a key, at once or when the keys and contents that the map
//! needs are there; a cache is asked for that key; a hit makes the key final, and only who wants the result makes it
//! load. When the maps are exhausted the key is final too, and a wanted result is made as soon as the inputs are there.
//!
//! ```text
//!           wanted                 keys, contents there            a cache is asked
//!   Idle ----------> Queued(Map) -> Started -> Keying -> ... -> Queued(Query) -> Started --.
//!    ^ ^                                                                                   |
//!    | `--- not found: the next map; found: the key is final, and that may be enough ------'
//!    |
//!    |--- a result is wanted and a cache has it ---> Queued(Load) -> Started ----------------> Settled
//!    `--- no cache has it, no maps left: Waiting for inputs -> Queued(Execute) -> Started ---> Settled
//! ```
//!
//! From any state but the last two a node that nobody wants any more goes back to rest in `Idle`; from `Started` when
//! the flight has ended. `Parked` is `Started` in the future: a flight for the same key is being stopped.
//!
//! A *flight* is a phase that runs. Loads and executions are listed by key: a second node that is about to start the same
//! attaches itself. Since only what runs is listed, and what runs waits for no node, nobody ever waits in a circle; and
//! since nodes never merge, there is nothing to take apart when a job leaves.
//!
//! Each consequence is a step on the agenda, never a call within a call: a chain may be longer than a stack is deep.

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;

use crate::cache::{Cache, Found, Record};
use crate::config::Config;
use crate::context::{Context, FlightId, Home, Inputs};
use crate::few::ById;
use crate::op::{CacheMap, Op, Part};
use crate::ready::{JobId, ReadyQueue};

pub(crate) mod event;
pub(crate) mod export;
mod flight;
mod intern;
mod keys;
mod known;
mod lists;
pub(crate) mod node;
mod nodes;
mod settle;
mod table;
mod want;
mod write;

use event::Note;
use intern::Identity;
use known::{KeyId, Keys};
use lists::Chains;
use node::{Build, BuildId, Content, ContentId, Drain, Flight, NodeId, Nodes, Waiter, Wants};

/// A phase to start, with what it needs.
pub(crate) struct Start<O: Op> {
    pub(crate) flight: FlightId,
    pub(crate) context: Context<O>,
    pub(crate) work: Work<O>,
}

pub(crate) enum Work<O: Op> {
    CacheMap { index: usize },
    Query { cache: Cache<O>, key: O::Key, earlier: Vec<O::Key> },
    Load { cache: Cache<O>, record: Record<O::Key> },
    Execute { cache: Option<Cache<O>>, key: O::Key, links: Vec<O::Key>, inputs: Inputs<O> },
    Digest { cache: Cache<O>, key: O::Key, part: Part },
    Content { cache: Option<Cache<O>>, key: O::Key, part: Part, result: O::Output },
    Write(Writing<O>),
}

/// A cache that keeps something.
pub(crate) type Writing<O> = Pin<Box<dyn Future<Output = Result<(), <O as Op>::Error>> + Send>>;

/// What a cache made of something that it was to keep.
pub(crate) enum Kept<O: Op> {
    Yes,
    No(O::Error),
    /// It is at it. Nobody waits for that.
    Underway(Writing<O>),
}

/// How a phase ended; and what a cache made of what it brought, if it brought something.
pub(crate) enum Done<O: Op> {
    CacheMap(Result<Option<CacheMap<O::Key>>, O::Error>),
    Query(Result<Option<Found<O::Key>>, O::Error>, Kept<O>),
    Load(Result<Option<O::Output>, O::Error>, Kept<O>),
    Execute(Result<O::Output, O::Error>, Kept<O>),
    Digest(Result<Option<O::Key>, O::Error>),
    Content(Result<O::Key, O::Error>, Kept<O>),
    Written(Result<(), O::Error>),
    /// With the panic's message.
    Panicked(String),
}

/// Something that may start when its turn comes.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Item {
    /// A node's next phase, if its ticket is still that.
    Node(NodeId, u32),
    Content(ContentId),
    /// A flight whose sub-builds are finished is to have back what it occupied.
    Resume(FlightId),
}

/// A consequence to follow up.
#[derive(Debug)]
enum Step {
    Want(BuildId, NodeId, Wants),
    /// Looks what an idle node does next.
    Pursue(NodeId),
    /// All that the map of a keying node needs is there, if its ticket is still that.
    Key(NodeId, u32),
    /// The node and all below it have results.
    Complete(NodeId),
    Drain(BuildId, Drain),
    Finish(BuildId),
}

pub(crate) struct Core<O: Op> {
    config: Config<O>,
    /// For the contexts of ops.
    home: Arc<Home<O>>,
    nodes: Nodes<O>,
    builds: ById<BuildId, Build<O>>,
    n_builds: u32,
    flights: ById<FlightId, Flight<O>>,
    n_flights: u64,
    by_identity: HashMap<Identity<O::Key>, NodeId>,
    keys: Keys<O::Key>,
    /// By key and whether it is made anew: the flight that brings the result.
    airborne: ById<(KeyId, bool), FlightId>,
    /// What caches are about to keep.
    writes: ById<FlightId, write::Write<O>>,
    /// By key: the write whose result no cache has yet.
    unsaved: ById<KeyId, FlightId>,
    /// Writes to go on with.
    to_write: VecDeque<Start<O>>,
    /// Who waits for nodes to get their keys.
    waiters: Chains<Waiter>,
    ready: ReadyQueue<Item>,
    contents: ById<ContentId, Content<O::Key>>,
    contents_of: ById<NodeId, Vec<ContentId>>,
    n_contents: u32,
    /// Room to put the arguments of a cache map together.
    digests: Vec<O::Key>,
    agenda: VecDeque<Step>,
    notes: VecDeque<Note<O>>,
    resumed: VecDeque<FlightId>,
}

impl<O: Op> Core<O> {
    pub(crate) fn new(config: Config<O>, home: Arc<Home<O>>) -> Self {
        Self {
            ready: ReadyQueue::new(&config.limits),
            config,
            home,
            nodes: Nodes::new(),
            builds: ById::default(),
            n_builds: 0,
            flights: ById::default(),
            n_flights: 0,
            by_identity: HashMap::new(),
            keys: Keys::new(),
            airborne: ById::default(),
            writes: ById::default(),
            unsaved: ById::default(),
            to_write: VecDeque::new(),
            waiters: Chains::new(),
            contents: ById::default(),
            contents_of: ById::default(),
            n_contents: 0,
            digests: Vec::new(),
            agenda: VecDeque::new(),
            notes: VecDeque::new(),
            resumed: VecDeque::new(),
        }
    }

    /// Takes out what there is to tell, in order.
    pub(crate) fn next_note(&mut self) -> Option<Note<O>> {
        self.notes.pop_front()
    }

    /// Takes out a flight that may go on after its sub-builds.
    pub(crate) fn next_resumed(&mut self) -> Option<FlightId> {
        self.resumed.pop_front()
    }

    pub(crate) fn build(&self, build: BuildId) -> Option<&Build<O>> {
        self.builds.get(&build)
    }

    pub(crate) fn node(&self, node: NodeId) -> Option<&node::Node<O>> {
        self.nodes.get(node)
    }

    pub(crate) fn op_name(&self, node: NodeId) -> String {
        self.nodes.get(node).map_or_else(String::new, |_| self.nodes.op(node).name())
    }

    pub(crate) fn flight(&self, flight: FlightId) -> Option<&Flight<O>> {
        self.flights.get(&flight)
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.flights.is_empty()
    }

    /// Says whether all that runs is caches that keep something.
    pub(crate) fn only_writes(&self) -> bool {
        self.flights.len() == self.writes.len()
    }

    /// Returns how many nodes, flights and indexed keys there are: all zero when nobody holds anything.
    pub(crate) fn census(&self) -> [usize; 7] {
        [
            self.nodes.len(),
            self.builds.len(),
            self.flights.len(),
            self.by_identity.len(),
            self.keys.len(),
            self.airborne.len(),
            self.contents.len() + self.contents_of.len(),
        ]
    }

    pub(crate) fn add_job(&mut self, job: JobId) {
        self.ready.add_job(job);
    }

    pub(crate) fn remove_job(&mut self, job: JobId) {
        self.ready.remove_job(job);
    }

    /// Follows up all consequences.
    fn work_off(&mut self) {
        while let Some(step) = self.agenda.pop_front() {
            match step {
                Step::Want(build, node, wants) => self.want(build, node, wants),
                Step::Pursue(node) => self.pursue(node),
                Step::Key(node, ticket) => self.complete_map(node, ticket),
                Step::Complete(node) => self.completed(node),
                Step::Drain(build, why) => self.drain(build, why),
                Step::Finish(build) => self.finish(build),
            }
        }
    }

    fn cache(&self, node: NodeId) -> Option<&Cache<O>> {
        let own = self.nodes[node].more.as_ref().and_then(|more| more.cache.as_ref());
        own.or_else(|| self.config.main_cache())
    }
}
