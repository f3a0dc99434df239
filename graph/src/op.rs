//! What a vertex does: the trait [`Op`], and how it names its result.

use std::fmt;
use std::hash::Hash;
use std::sync::Arc;

use crate::context::{Context, Inputs};
use crate::dag::VertexId;
use crate::limits::Resources;

/// One vertex's work: name the result, and make it if no cache has it.
///
/// Each phase is a future. It is first polled on the solver's own loop, so that what needs no waiting costs no task;
/// a body that blocks belongs into `spawn_blocking`. No phase is ever dropped half-way: to end early is the op's own
/// decision, on [`Context::stop`].
///
/// ```
/// use std::{convert::Infallible, sync::Arc};
///
/// use larder_graph::{
///     CacheMap, Config, Context, DagBuilder, EdgeKind, Event, Inputs, Limits, MemoryCache, OnFailure, Op, Phase, Resources,
///     Stop, VertexId, run,
/// };
///
/// /// Puts a word behind those of its inputs.
/// struct Say(&'static str, Vec<VertexId>);
///
/// impl Op for Say {
///     type Key = String;
///     type Output = Arc<str>;
///     type Error = Infallible;
///     type Progress = ();
///
///     fn name(&self) -> String {
///         self.0.to_owned()
///     }
///
///     fn resources(&self, phase: Phase) -> Resources {
///         if phase == Phase::Execute { Resources::none().take("cpu", 1) } else { Resources::none() }
///     }
///
///     async fn cache_map(&self, index: usize, _: &Context<Self>) -> Result<Option<CacheMap<String>>, Infallible> {
///         let word = self.0;
///         let map = || CacheMap::new(self.1.iter().copied(), move |keys| format!("{word}({})", keys.join(" ")));
///         Ok((index == 0).then(map))
///     }
///
///     async fn execute(&self, _: &String, inputs: Inputs<Self>, cx: &Context<Self>) -> Result<Arc<str>, Infallible> {
///         cx.report(());
///         let before: String = inputs.direct().map(|(_, words)| format!("{words} ")).collect();
///         Ok(format!("{before}{}", self.0).into())
///     }
/// }
///
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// let graph = || {
///     let mut builder = DagBuilder::new();
///     let hello = builder.add(Say("hello", vec![]));
///     let world = builder.add(Say("world", vec![hello]));
///     builder.edge(world, hello, EdgeKind::Keyed);
///     (Arc::new(builder.build().expect("there is no cycle")), world)
/// };
/// let cache = MemoryCache::new();
/// for n_executed in [2, 0] {
///     let (dag, world) = graph();
///     let mut executed = 0;
///     let config = Config::from(Limits::new().pool("cpu", 4)).cache(cache.clone());
///     let report = run(dag, config, OnFailure::Stop, Stop::new(), |event| {
///         executed += i32::from(matches!(event, Event::Started { phase: Phase::Execute, .. }));
///     });
///     assert_eq!(report.await.output(world).map(|words| &**words), Some("hello world"));
///     assert_eq!(executed, n_executed);
/// }
/// # });
/// ```
///
/// What few ops need: several outputs, contents of parts, progress that takes the place of earlier progress.
///
/// ```
/// # use std::{convert::Infallible, sync::Arc};
/// use larder_graph::{CacheMap, Config, Context, DagBuilder, Inputs, JobOptions, Op, Reach, Solver};
///
/// /// Unpacks an archive into a source and a header.
/// struct Unpack;
///
/// impl Op for Unpack {
///     type Key = String;
///     type Output = Vec<Arc<str>>;
///     type Error = Infallible;
///     type Progress = u64;
///
///     // Whoever unpacks this archive, in whatever job, shares one vertex.
///     fn digest(&self) -> Option<String> {
///         Some("util-1.2.tar".into())
///     }
///
///     // It takes long, so it starts early; and it needs nothing below its inputs.
///     fn weight(&self) -> u64 {
///         30_000
///     }
///
///     fn reach(&self) -> Reach {
///         Reach::Direct
///     }
///
///     // Only the latest count of bytes is kept.
///     fn slot(_: &u64) -> Option<u64> {
///         Some(0)
///     }
///
///     fn output(&self, files: &Vec<Arc<str>>, index: u32) -> Vec<Arc<str>> {
///         vec![Arc::clone(&files[index as usize])]
///     }
///
///     async fn content(
///         &self,
///         _: &String,
///         files: &Vec<Arc<str>>,
///         selector: Option<&str>,
///         _: &Context<Self>,
///     ) -> Result<String, Infallible> {
///         let lines = files.iter().flat_map(|file| file.lines());
///         Ok(lines.filter(|line| line.starts_with(selector.unwrap_or(""))).collect())
///     }
///
///     async fn cache_map(&self, _: usize, _: &Context<Self>) -> Result<Option<CacheMap<String>>, Infallible> {
///         Ok(Some(CacheMap::leaf("util-1.2.tar".to_owned()).last()))
///     }
///
///     async fn execute(&self, _: &String, _: Inputs<Self>, cx: &Context<Self>) -> Result<Vec<Arc<str>>, Infallible> {
///         cx.report(2);
///         Ok(vec!["int one(void) { return 1; }".into(), "int one(void);".into()])
///     }
/// }
///
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// let solver = Solver::new(Config::new());
/// let mut unpacked = Vec::new();
/// for name in ["mine", "yours"] {
///     let mut builder = DagBuilder::new();
///     let archive = builder.add(Unpack);
///     let job = solver.job(name, JobOptions::default())?;
///     let built = job.build(builder.build()?, &[archive]).await?;
///     unpacked.push((job, built));
/// }
/// let [(_, mine), (_, yours)] = &unpacked[..] else { unreachable!() };
/// assert!(Arc::ptr_eq(&mine.outputs[0][1], &yours.outputs[0][1]));
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
pub trait Op: Sized + Send + Sync + 'static {
    /// Names a result: equal keys mean results of which either will do. Also the digest of a content.
    type Key: Clone + Eq + Hash + fmt::Debug + Send + Sync + 'static;
    /// A handle to a result; cheap to clone, and what it stands for is released when the last clone is dropped.
    type Output: Clone + Send + Sync + 'static;
    /// Why a phase failed.
    type Error: Send + Sync + 'static;
    /// What an op tells of its work while it is at it.
    type Progress: Send + Sync + 'static;

    /// Returns what people call this vertex.
    fn name(&self) -> String {
        String::new()
    }

    /// Returns where a report of progress is filed: it takes the place of the phase's earlier report in that slot, in what
    /// those are told who come late. `None`: it is kept beside all others. So a counter takes one slot, and the last
    /// lines of an endless output as many as they are to be.
    fn slot(_progress: &Self::Progress) -> Option<u64> {
        None
    }

    /// Says whether an error is of the kind that any other vertex would meet as well, such as a full disk. Then nothing
    /// more starts, even for those who keep going after a failure.
    fn is_general(_error: &Self::Error) -> bool {
        false
    }

    /// Returns what this op is, inputs aside: vertices of equal digests and equal inputs are one vertex, in whatever
    /// job or graph they stand. `None`: it is one only with itself.
    fn digest(&self) -> Option<Self::Key> {
        None
    }

    /// Returns the expected cost of [`execute`](Op::execute) in milliseconds. What the most work waits for starts first.
    fn weight(&self) -> u64 {
        1
    }

    /// Returns what `phase` occupies while it runs.
    fn resources(&self, _phase: Phase) -> Resources {
        Resources::none()
    }

    /// Returns what must be there when [`execute`](Op::execute) starts.
    fn reach(&self) -> Reach {
        Reach::Closure
    }

    /// Returns the `index`-th way to name this vertex's result, cheapest first, or `None`: there are no more.
    ///
    /// Asked lazily: 0 first, the next only after no cache had the key of the previous. There must be at least one.
    /// It waits for no input, so it is also the place where a source is fetched ahead of its turn. An error fails the
    /// vertex.
    fn cache_map(
        &self,
        index: usize,
        cx: &Context<Self>,
    ) -> impl Future<Output = Result<Option<CacheMap<Self::Key>>, Self::Error>> + Send;

    /// Makes the result, all outputs of it. `key` is the vertex's own: that of the last cache map that needs no
    /// content. The inputs that [`reach`](Op::reach) names have their results.
    fn execute(
        &self,
        key: &Self::Key,
        inputs: Inputs<Self>,
        cx: &Context<Self>,
    ) -> impl Future<Output = Result<Self::Output, Self::Error>> + Send;

    /// Returns output `index` of a result of this op. A result of several outputs is made, kept and loaded as one.
    fn output(&self, result: &Self::Output, _index: u32) -> Self::Output {
        result.clone()
    }

    /// Returns the digest of one output of this op, or of the part of it that `selector` names. Asked only if a cache
    /// map of a dependant names the content ([`Need::content`]) and no cache remembers its digest.
    ///
    /// An op whose content nobody needs can leave it out: then its key stands for its content.
    fn content(
        &self,
        key: &Self::Key,
        _output: &Self::Output,
        _selector: Option<&str>,
        _cx: &Context<Self>,
    ) -> impl Future<Output = Result<Self::Key, Self::Error>> + Send {
        let key = key.clone();
        async move { Ok(key) }
    }
}

/// How far down the results must be there when an op executes.
///
/// ```
/// use larder_graph::Reach;
///
/// // For `Op::reach`. A linker needs all objects; what only unpacks one archive, that archive.
/// let reach = |is_linker| if is_linker { Reach::Closure } else { Reach::Direct };
/// assert_ne!(reach(true), reach(false));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reach {
    /// Those of the vertex's own inputs. What these were made from is not brought here.
    Direct,
    /// Those of all that it needs, directly or not.
    Closure,
}

/// The part of its work that a vertex is at.
///
/// ```
/// use larder_graph::{Phase, Resources};
///
/// // For `Op::resources`: to name a result or to make it takes different things.
/// let takes = |phase| match phase {
///     Phase::CacheMap(_) | Phase::Query | Phase::Load => Resources::none().take("network", 1),
///     Phase::Execute | Phase::Content => Resources::none().take("cpu", 1),
/// };
/// assert_ne!(takes(Phase::CacheMap(0)), takes(Phase::Execute));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// [`Op::cache_map`] with this index.
    CacheMap(usize),
    /// A cache is asked what it has.
    Query,
    /// A cache brings a result.
    Load,
    /// [`Op::execute`].
    Execute,
    /// [`Op::content`].
    Content,
}

/// One thing that a cache map needs of an input.
///
/// ```
/// use larder_graph::{CacheMap, DagBuilder, Need};
///
/// let mut builder = DagBuilder::new();
/// let [library, tool] = ["library", "tool"].map(|op| builder.add(op));
/// // Of the library's second output only the headers matter; of the tool, which one it is.
/// let headers = Need::content(library).of_output(1).selecting("include/");
/// let map = CacheMap::of([headers.clone(), Need::key(tool)], |keys: &[String]| keys.join("+"));
/// assert_eq!(map.needs()[0], headers);
/// assert_eq!(map.key(&["h".into(), "t".into()]), "h+t");
/// let leaf = CacheMap::leaf("v1.2").last();
/// assert_eq!(leaf.key(&[]), "v1.2");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Need {
    pub(crate) input: VertexId,
    /// Boxed, since most needs are of keys.
    pub(crate) content: Option<Box<Part>>,
}

/// The part of a result whose content is digested: an output, and within it what the selector says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Part {
    pub(crate) output: u32,
    pub(crate) selector: Option<Arc<str>>,
}

impl Need {
    /// The input's own key. If only an output or a part of it matters, the recipe takes its name into the new key.
    pub fn key(input: VertexId) -> Self {
        Self { input, content: None }
    }

    /// The digest of the input's first output. The input is loaded or made for it, unless a cache remembers the digest.
    pub fn content(input: VertexId) -> Self {
        Self { input, content: Some(Box::default()) }
    }

    /// The content of another output.
    #[must_use]
    pub fn of_output(mut self, output: u32) -> Self {
        self.content.get_or_insert_default().output = output;
        self
    }

    /// The content of the part that `selector` names; what it means is the input's op's to say.
    #[must_use]
    pub fn selecting(mut self, selector: impl Into<Arc<str>>) -> Self {
        self.content.get_or_insert_default().selector = Some(selector.into());
        self
    }
}

/// One way to compute a vertex's key: from keys and contents of inputs.
///
/// ```
/// use larder_graph::{CacheMap, DagBuilder, Need};
///
/// let mut builder = DagBuilder::new();
/// let [header, source] = ["util.h", "main.c"].map(|op| builder.add(op));
/// // By name first; by what the header really says, if that name is new.
/// let maps = [
///     CacheMap::new([header, source], |keys: &[String]| keys.join("+")),
///     CacheMap::of([Need::content(header), Need::key(source)], |keys| keys.join("+")),
/// ];
/// assert!(!maps[0].needs_content() && maps[1].needs_content());
/// ```
pub struct CacheMap<K> {
    needs: Vec<Need>,
    recipe: Recipe<K>,
    is_last: bool,
}

type Compute<K> = Box<dyn FnOnce(&[K]) -> K + Send>;

enum Recipe<K> {
    Known(K),
    Computed(Compute<K>),
}

impl<K> CacheMap<K> {
    /// Computes the key from the keys of `inputs`, given in the same order. An input that is no edge of the graph
    /// becomes one, as if it had been there from the start, unless that closes a cycle.
    pub fn new(inputs: impl IntoIterator<Item = VertexId>, key: impl FnOnce(&[K]) -> K + Send + 'static) -> Self {
        Self::of(inputs.into_iter().map(Need::key), key)
    }

    /// Computes the key from what `needs` names, given in the same order.
    pub fn of(needs: impl IntoIterator<Item = Need>, key: impl FnOnce(&[K]) -> K + Send + 'static) -> Self {
        Self { needs: needs.into_iter().collect(), recipe: Recipe::Computed(Box::new(key)), is_last: false }
    }

    /// The key is known without any other.
    pub fn leaf(key: K) -> Self {
        Self { needs: Vec::new(), recipe: Recipe::Known(key), is_last: false }
    }

    /// Says that there is no further map, which saves asking.
    #[must_use]
    pub fn last(self) -> Self {
        Self { is_last: true, ..self }
    }

    pub(crate) fn take_needs(&mut self) -> Vec<Need> {
        std::mem::take(&mut self.needs)
    }

    pub(crate) fn is_last(&self) -> bool {
        self.is_last
    }

    /// Returns what is needed.
    pub fn needs(&self) -> &[Need] {
        &self.needs
    }

    /// Says whether a content is among it.
    pub fn needs_content(&self) -> bool {
        self.needs.iter().any(|need| need.content.is_some())
    }

    /// Returns the key, given what was [needed](Self::needs) in that order.
    pub fn key(self, keys: &[K]) -> K {
        match self.recipe {
            Recipe::Known(key) => key,
            Recipe::Computed(compute) => compute(keys),
        }
    }
}

impl<K: fmt::Debug> fmt::Debug for CacheMap<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CacheMap").field("needs", &self.needs).finish_non_exhaustive()
    }
}
