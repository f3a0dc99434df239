//! What a scripted op does, and how it is written: `curl: fail ms=20; httr: cached`.

use crate::dag::VertexId;

/// What one scripted op does in each phase. The default executes, in 10 ms, and no cache has it.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "each is one word of the script, and independent of the others")]
pub struct Script {
    /// The op's name; also its result.
    pub name: String,
    /// The number of cache maps. `maps=2`
    pub n_maps: usize,
    /// The cache has the key of this map. `cached`, `cached=1`
    pub cached_at: Option<usize>,
    /// All maps give the same key. `same`
    pub same_key: bool,
    /// The inputs that every map names.
    pub keyed: Vec<VertexId>,
    /// The inputs that only the last map names. `names=a,b`
    pub late: Vec<VertexId>,
    /// This cache map is an error. `map-fail`, `map-fail=1`
    pub map_fails_at: Option<usize>,
    /// Loading is an error. `load-fail`
    pub load_fails: bool,
    /// Executing is an error. `fail`
    pub fails: bool,
    /// Executing, and loading if that is an error, is one that all others would meet too. `fail-all`
    pub fails_for_all: bool,
    /// Executing panics. `panic`
    pub panics: bool,
    /// Executing reports progress. `report`
    pub reports: bool,
    /// Ends with an error when a stop is requested. `heeds-request`
    pub heeds_request: bool,
    /// Ends with an error when a stop is forced. `heeds-force`
    pub heeds_force: bool,
    /// The time each cache map takes. `map-ms=5`
    pub map_ms: u64,
    /// The time each load takes. `load-ms=5`
    pub load_ms: u64,
    /// The time executing takes. `ms=20`
    pub ms: u64,
    /// The expected time, if it is not `ms`. `weight=1`
    pub weight: Option<u64>,
    /// What a cache map occupies. `map-take=network`
    pub map_takes: Vec<(&'static str, u32)>,
    /// What a load occupies. `load-take=network`
    pub load_takes: Vec<(&'static str, u32)>,
    /// What executing occupies. `take=cpu*2,memory`
    pub takes: Vec<(&'static str, u32)>,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            name: String::new(),
            n_maps: 1,
            cached_at: None,
            same_key: false,
            keyed: Vec::new(),
            late: Vec::new(),
            map_fails_at: None,
            load_fails: false,
            fails: false,
            fails_for_all: false,
            panics: false,
            reports: false,
            heeds_request: false,
            heeds_force: false,
            map_ms: 0,
            load_ms: 0,
            ms: 10,
            weight: None,
            map_takes: Vec::new(),
            load_takes: Vec::new(),
            takes: Vec::new(),
        }
    }
}

impl Script {
    /// Returns the part of its key that the `index`-th cache map gives without any input.
    pub(crate) fn map_name(&self, index: usize) -> String {
        if self.same_key || index == 0 { self.name.clone() } else { format!("{}@{index}", self.name) }
    }

    /// Adds one word of a script. `vertex` finds vertices by name.
    ///
    /// # Panics
    /// When there is no such word.
    pub(crate) fn add_word(&mut self, word: &str, vertex: impl Fn(&str) -> VertexId) {
        let (word, value) = word.split_once('=').unwrap_or((word, ""));
        let number = || if value.is_empty() { 0 } else { value.parse::<u32>().expect("a number follows `=`") };
        match word {
            "maps" => self.n_maps = number() as usize,
            "cached" => self.cached_at = Some(number() as usize),
            "same" => self.same_key = true,
            "names" => self.late = value.split(',').map(vertex).collect(),
            "map-fail" => self.map_fails_at = Some(number() as usize),
            "load-fail" => self.load_fails = true,
            "fail" => self.fails = true,
            "fail-all" => self.fails_for_all = true,
            "panic" => self.panics = true,
            "report" => self.reports = true,
            "heeds-request" => self.heeds_request = true,
            "heeds-force" => self.heeds_force = true,
            "map-ms" => self.map_ms = number().into(),
            "load-ms" => self.load_ms = number().into(),
            "ms" => self.ms = number().into(),
            "weight" => self.weight = Some(number().into()),
            "map-take" => self.map_takes = takes(value),
            "load-take" => self.load_takes = takes(value),
            "take" => self.takes = takes(value),
            _ => panic!("no script knows the word `{word}`"),
        }
    }
}

fn takes(text: &str) -> Vec<(&'static str, u32)> {
    let take = |item: &str| {
        let (pool, amount) = item.split_once('*').unwrap_or((item, "1"));
        // Pools are few and named in the program's text; the names of a test's live as long as the test.
        (&*pool.to_owned().leak(), amount.parse().expect("a number follows `*`"))
    };
    text.split(',').map(take).collect()
}
