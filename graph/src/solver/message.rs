//! What handles ask of the loop, and how the loop answers.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use super::{BuildError, BuildId, Dag, Driver, Histories, JobEvent, JobId, Op, Owner, VertexId};
use crate::core::export::Draft;

/// Names a build before it is taken in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Ticket(pub(super) u64);

type Reply<O> = oneshot::Sender<Result<(BuildId, Vec<<O as Op>::Output>), BuildError<<O as Op>::Error>>>;

pub(super) enum Msg<O: Op> {
    /// A job begins, and keeps its history or not.
    Open(JobId, bool),
    Build {
        ticket: Ticket,
        job: JobId,
        dag: Arc<Dag<O>>,
        targets: Vec<VertexId>,
        is_fail_fast: bool,
        reply: Reply<O>,
    },
    Cancel {
        ticket: Ticket,
        is_forced: bool,
    },
    Discard(JobId),
    /// All jobs are cancelled and there will be no more.
    Close,
    Read {
        job: JobId,
        reader: mpsc::UnboundedSender<Arc<JobEvent<O>>>,
    },
    Export {
        build: BuildId,
        reply: oneshot::Sender<Draft<O>>,
    },
    Census(oneshot::Sender<[usize; 7]>),
}

/// Who is waiting for what.
pub(super) struct Office<O: Op> {
    pub(super) histories: Histories<O>,
    /// The builds of every job that is not discarded.
    jobs: HashMap<JobId, Vec<BuildId>>,
    tickets: HashMap<Ticket, BuildId>,
    replies: HashMap<BuildId, (Ticket, JobId, Reply<O>)>,
    /// Discarded jobs with builds that are not finished.
    leaving: Vec<JobId>,
    pub(super) is_closed: bool,
}

impl<O: Op> Office<O> {
    pub(super) fn new() -> Self {
        Self {
            histories: Histories::new(),
            jobs: HashMap::new(),
            tickets: HashMap::new(),
            replies: HashMap::new(),
            leaving: Vec::new(),
            is_closed: false,
        }
    }

    pub(super) fn take(&mut self, driver: &mut Driver<O>, message: Msg<O>) {
        match message {
            Msg::Open(job, keeps_history) => {
                self.jobs.insert(job, Vec::new());
                self.histories.add(job, keeps_history);
                driver.core.add_job(job);
            }
            Msg::Build { ticket, job, dag, targets, is_fail_fast, reply } => {
                let Some(builds) = self.jobs.get_mut(&job).filter(|_| !self.is_closed && !self.leaving.contains(&job))
                else {
                    let _ = reply.send(Err(BuildError::Cancelled));
                    return;
                };
                let build = driver.core.submit(Owner::Job(job), dag, &targets, is_fail_fast, false);
                builds.push(build);
                self.tickets.insert(ticket, build);
                self.replies.insert(build, (ticket, job, reply));
            }
            Msg::Cancel { ticket, is_forced } => {
                if let Some(build) = self.tickets.get(&ticket) {
                    driver.core.stop(*build, is_forced);
                }
            }
            Msg::Discard(job) => {
                if self.jobs.contains_key(&job) && !self.leaving.contains(&job) {
                    self.leaving.push(job);
                }
                for build in self.jobs.get(&job).cloned().unwrap_or_default() {
                    if self.replies.contains_key(&build) {
                        driver.core.stop(build, false);
                    }
                }
            }
            Msg::Close => {
                self.is_closed = true;
                let mut builds: Vec<_> = self.replies.keys().copied().collect();
                builds.sort_unstable();
                for build in builds {
                    driver.core.stop(build, false);
                }
            }
            Msg::Read { job, reader } => self.histories.read(job, reader),
            Msg::Export { build, reply } => drop(reply.send(driver.core.draft(build))),
            Msg::Census(reply) => drop(reply.send(driver.core.census())),
        }
        driver.tell(&mut self.histories);
        self.reply(driver);
    }

    /// Answers who waits for builds that are finished, and forgets jobs that are.
    pub(super) fn reply(&mut self, driver: &mut Driver<O>) {
        for build in std::mem::take(&mut self.histories.finished) {
            if let Some((ticket, _, reply)) = self.replies.remove(&build) {
                self.tickets.remove(&ticket);
                let answer = driver.core.answer(build).map(|outputs| (build, outputs));
                // Nobody listens: the future was dropped, and what it built is kept for the job all the same.
                let _ = reply.send(answer);
            }
        }
        let (jobs, replies) = (&self.jobs, &self.replies);
        let is_done = |job: &JobId| jobs[job].iter().all(|build| !replies.contains_key(build));
        let done: Vec<_> = self.leaving.iter().copied().filter(is_done).collect();
        self.leaving.retain(|job| !done.contains(job));
        for job in done {
            for build in self.jobs.remove(&job).unwrap_or_default() {
                driver.core.release(build);
            }
            driver.core.remove_job(job);
            self.histories.remove(job);
        }
    }
}
