//! [`Queue`]: the nodes that wait for their gradient to be complete, youngest
//! first.

use super::node::{Edge, Node, Outputs};
use crate::error::Result;
use crate::ffi;
use std::collections::BTreeMap;
use tch::Tensor;

/// A node, and the sums of its children's gradients so far, one per output.
pub(crate) struct Waiting<'g> {
    pub node: &'g Node,
    pub grads: Outputs<Option<Tensor>>,
}

/// The nodes that wait. The youngest is kept apart from the others: in a chain it is the only
/// one, and the tree is never touched.
#[derive(Default)]
pub(crate) struct Queue<'g> {
    youngest: Option<Waiting<'g>>,
    others: BTreeMap<u64, Waiting<'g>>,
}

impl<'g> Queue<'g> {
    /// Adds `grad` to the gradient of the edge's output.
    #[inline]
    pub fn add(&mut self, op: &'static str, edge: &'g Edge, grad: Tensor) -> Result<()> {
        let slot = &mut self.entry(&edge.node).grads[edge.output as usize];
        match slot {
            Some(sum) => ffi::accumulate(op, sum, &grad)?,
            None => *slot = Some(grad),
        }
        Ok(())
    }

    #[inline]
    pub fn pop(&mut self) -> Option<Waiting<'g>> {
        self.youngest.take().or_else(|| self.others.pop_last().map(|(_, waiting)| waiting))
    }

    #[inline]
    fn entry(&mut self, node: &'g Node) -> &mut Waiting<'g> {
        let youngest = self.youngest.as_ref().map(|w| w.node.seq);
        let youngest = youngest.or_else(|| self.others.last_key_value().map(|(seq, _)| *seq));
        match youngest {
            Some(youngest) if node.seq < youngest => return self.older(node),
            Some(youngest) if node.seq == youngest => {}
            _ => {
                if let Some(second) = self.youngest.replace(Waiting::of(node)) {
                    self.others.insert(second.node.seq, second);
                }
            }
        }
        self.youngest.get_or_insert_with(|| {
            self.others.pop_last().map_or_else(|| Waiting::of(node), |(_, waiting)| waiting)
        })
    }

    fn older(&mut self, node: &'g Node) -> &mut Waiting<'g> {
        self.others.entry(node.seq).or_insert_with(|| Waiting::of(node))
    }
}

impl<'g> Waiting<'g> {
    #[inline]
    fn of(node: &'g Node) -> Waiting<'g> {
        let mut grads = Outputs::new();
        (0..node.outputs).for_each(|_| grads.push(None));
        Waiting { node, grads }
    }
}
