//! The loop that drives a graph to its end; the only owner of the scheduler's state.
//!
//! Ops run as tasks that send one message home, how their phase ended. Every task is joined here, and none is ever
//! aborted: an op may have children of its own to wait for.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::task::{self, Poll, Waker};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet, coop};
use tokio::time::Instant;

use crate::dag::{Dag, VertexId};
use crate::event::{Event, Report, Settled, Table};
use crate::limits::Limits;
use crate::op::{Context, Op, Phase, Shared};
use crate::sched::{Done, OnFailure, Sched, Work};
use crate::stop::Stop;

/// Reports of progress that may be unread at a time; see [`Context::report`].
const PROGRESS_MAX: usize = 1024;

/// Settles every vertex of `dag`, and tells `events` how it goes.
///
/// When `stop` is requested nothing more starts; the run returns when what runs has ended. The future should be awaited
/// to its end: dropping it drops the ops' futures wherever they are.
///
/// # Panics
/// When an op panics: after all others were asked to stop and have ended, the panic goes on from here.
pub async fn run<O: Op>(
    dag: Arc<Dag<O>>,
    limits: Limits,
    on_failure: OnFailure,
    stop: Stop,
    events: impl FnMut(Event<'_, O>),
) -> Report<O> {
    let (sender, progress) = mpsc::channel(PROGRESS_MAX);
    let n_vertices = dag.len();
    let sched = Sched::new(Arc::clone(&dag), &limits, on_failure);
    // A child, so that a panic here stops nobody else who listens to the caller's.
    let shared = Arc::new(Shared { dag, table: Table::new(n_vertices), stop: stop.child(), progress: sender });
    let started_at = vec![None; n_vertices];
    let mut driver = Driver { sched, shared, progress, tasks: JoinSet::new(), started_at, events };
    if let Err(panic) = caught(driver.drive()).await {
        driver.shared.stop.request();
        while driver.tasks.join_next().await.is_some() {}
        resume_unwind(panic);
    }
    Report::new(driver.shared)
}

struct Driver<O: Op, E> {
    sched: Sched<O>,
    shared: Arc<Shared<O>>,
    progress: mpsc::Receiver<(VertexId, O::Progress)>,
    tasks: JoinSet<(VertexId, Done<O>)>,
    /// When each vertex's first phase started.
    started_at: Vec<Option<Instant>>,
    events: E,
}

impl<O: Op, E: FnMut(Event<'_, O>)> Driver<O, E> {
    async fn drive(&mut self) {
        let stop = self.shared.stop.clone();
        loop {
            self.start_ready().await;
            if self.sched.is_finished() {
                return;
            }
            assert!(!self.tasks.is_empty(), "the solver is stuck with {} unsettled vertices", self.sched.n_unsettled());
            tokio::select! {
                biased;
                () = stop.requested(), if !self.sched.is_stopping() => self.sched.stop(),
                Some(joined) = self.tasks.join_next() => {
                    let (vertex, done) = joined.unwrap_or_else(|error| go_on_panicking(error));
                    self.finish(vertex, done);
                }
                Some((vertex, progress)) = self.progress.recv() => self.tell_progress(vertex, progress),
            }
            self.record_settled();
        }
    }

    /// Starts all that may start. A phase that ends without waiting costs no task, and may let others start.
    async fn start_ready(&mut self) {
        loop {
            if self.shared.stop.is_requested() && !self.sched.is_stopping() {
                self.sched.stop();
            }
            self.record_settled();
            let Some((vertex, work)) = self.sched.start_next() else { return };
            self.started_at[vertex.index()].get_or_insert_with(Instant::now);
            (self.events)(Event::Started { vertex, phase: phase(&work) });
            let context = Context::new(vertex, Arc::clone(&self.shared));
            let mut task = Box::pin(perform(context, work));
            // The waker may be deaf: a task that waits is polled again as soon as it is spawned.
            match task.as_mut().poll(&mut task::Context::from_waker(Waker::noop())) {
                Poll::Ready((vertex, done)) => self.finish(vertex, done),
                Poll::Pending => drop(self.tasks.spawn(task)),
            }
            // A graph that never waits must not keep others, such as a Ctrl-C handler, from running.
            coop::consume_budget().await;
        }
    }

    fn finish(&mut self, vertex: VertexId, done: Done<O>) {
        // What was told before the phase ended is there by now.
        for _ in 0..self.progress.len() {
            if let Ok((vertex, progress)) = self.progress.try_recv() {
                self.tell_progress(vertex, progress);
            }
        }
        if self.shared.stop.is_requested() && !self.sched.is_stopping() {
            self.sched.stop();
        }
        if let Done::Load(Err(error)) = &done
            && !self.sched.is_stopping()
        {
            (self.events)(Event::LoadFailed { vertex, error });
        }
        self.sched.advance(vertex, done);
    }

    fn tell_progress(&mut self, vertex: VertexId, progress: O::Progress) {
        // A stray thread of an op may still hold a context.
        if !self.sched.is_settled(vertex) {
            (self.events)(Event::Progress { vertex, progress });
        }
    }

    fn record_settled(&mut self) {
        while let Some((vertex, outcome)) = self.sched.next_settled() {
            let key = self.sched.final_key(vertex).cloned();
            let duration = self.started_at[vertex.index()].map_or(Duration::ZERO, |start| start.elapsed());
            let settled = Settled { key, outcome, duration };
            let settled = self.shared.table.settle(vertex, settled, self.sched.late_inputs(vertex).into());
            (self.events)(Event::Settled { vertex, settled });
        }
    }
}

fn phase<K>(work: &Work<K>) -> Phase {
    match work {
        Work::CacheMap { index } => Phase::CacheMap(*index),
        Work::Load { .. } => Phase::Load,
        Work::Execute { .. } => Phase::Execute,
    }
}

async fn perform<O: Op>(context: Context<O>, work: Work<O::Key>) -> (VertexId, Done<O>) {
    let op = context.op();
    let done = match work {
        Work::CacheMap { index } => Done::CacheMap(op.cache_map(index, &context).await),
        Work::Load { key } => Done::Load(op.load(&key, &context).await),
        Work::Execute { key, late_inputs } => {
            Done::Execute(op.execute(&key, context.inputs(late_inputs), &context).await)
        }
    };
    (context.vertex(), done)
}

fn go_on_panicking(error: JoinError) -> ! {
    resume_unwind(error.try_into_panic().unwrap_or_else(|error| Box::new(format!("a task was lost: {error}"))))
}

/// Turns a panic of `future` into a value, wherever between two awaits it happens.
async fn caught<T>(future: impl Future<Output = T>) -> Result<T, Box<dyn Any + Send>> {
    let mut future = pin!(future);
    std::future::poll_fn(|cx| {
        // After a panic the future is not polled again, and what it borrowed is only used to join tasks.
        match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
            Ok(Poll::Ready(value)) => Poll::Ready(Ok(value)),
            Ok(Poll::Pending) => Poll::Pending,
            Err(panic) => Poll::Ready(Err(panic)),
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dag::DagBuilder;
    use crate::testing::Scripted;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_run_may_be_a_task_of_a_threaded_runtime() {
        let mut builder = DagBuilder::new();
        for _ in 0..100 {
            builder.add(Scripted::default());
        }
        let dag = Arc::new(builder.build().expect("no edge, no cycle"));
        let limits = Limits::new();
        let report = tokio::spawn(run(dag, limits, OnFailure::Stop, Stop::new(), |_| {})).await.expect("no panic");
        assert!(report.is_success());
    }
}
