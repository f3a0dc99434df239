//! What the core says: which vertex of which build went on how.

use std::sync::Arc;

use super::node::{BuildId, NodeId};
use crate::context::FlightId;
use crate::dag::VertexId;
use crate::event::Outcome;
use crate::op::{Op, Phase};

/// Something to tell, in the order in which it happened.
pub(crate) struct Note<O: Op> {
    pub(crate) build: BuildId,
    pub(crate) node: NodeId,
    pub(crate) vertex: VertexId,
    pub(crate) what: What<O>,
}

pub(crate) enum What<O: Op> {
    /// A phase starts, or one that had started comes to concern this build too.
    Started(Phase, FlightId),
    /// A cache knows the vertex.
    Found,
    /// A cache could not be asked or written.
    CacheFailed(Arc<O::Error>),
    /// A cache could not keep what the vertex brought, which may have ended long ago.
    NotKept(Arc<O::Error>),
    /// The vertex reached its end.
    Settled(Outcome<O>),
    /// The build did. Comes last, and for no vertex.
    Finished,
}
