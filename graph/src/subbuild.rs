//! A build that an op asks for while it runs.

use std::sync::Arc;

use tokio::sync::oneshot;

use crate::context::{FlightId, Home};
use crate::dag::{Dag, VertexId};
use crate::error::BuildError;
use crate::op::Op;

pub(crate) type Answer<O> = Result<Vec<<O as Op>::Output>, BuildError<<O as Op>::Error>>;

/// The request.
pub(crate) struct SubBuild<O: Op> {
    pub(crate) flight: FlightId,
    pub(crate) dag: Arc<Dag<O>>,
    pub(crate) targets: Vec<VertexId>,
    pub(crate) reply: oneshot::Sender<Answer<O>>,
}

impl<O: Op> SubBuild<O> {
    pub(crate) async fn run(home: &Home<O>, flight: FlightId, dag: Arc<Dag<O>>, targets: &[VertexId]) -> Answer<O> {
        if let Some(target) = targets.iter().find(|target| !dag.contains(**target)) {
            return Err(BuildError::UnknownTarget(*target));
        }
        let (reply, answer) = oneshot::channel();
        let request = Self { flight, dag, targets: targets.to_vec(), reply };
        // A solver that is gone answers nothing.
        let _ = home.sub_builds.send(request);
        answer.await.unwrap_or(Err(BuildError::Cancelled))
    }
}
