//! A read of a medium under way, as a future small enough that a request can hold one for each of its blocks.

use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use super::Patch;
use crate::buf::AlignedBuf;
use crate::env::reactor::{Completion, IoBuf, Operation};
use crate::error::{Error, Result};

/// Gives the buffer back in any case; after an error its content is anything.
#[must_use]
pub struct Reading {
    started: Started,
    patches: Option<Rc<[Patch]>>,
    offset: u64,
    part: Range<usize>,
}

enum Started {
    /// The medium is at it.
    Under(Operation),
    /// It was not begun. On the heap, so that the rule does not pay for the exception.
    Refused(Option<Box<(AlignedBuf, Error)>>),
}

impl Reading {
    /// A read at `offset` into that part of the buffer; what `patches` hold is seen in the medium's place.
    pub(super) fn under(operation: Operation, patches: Option<Rc<[Patch]>>, offset: u64, part: Range<usize>) -> Self {
        Self { started: Started::Under(operation), patches, offset, part }
    }

    /// A read that was not begun.
    pub(super) fn refused(buf: AlignedBuf, error: Error) -> Self {
        Self { started: Started::Refused(Some(Box::new((buf, error)))), patches: None, offset: 0, part: 0..0 }
    }
}

impl Future for Reading {
    type Output = (AlignedBuf, Result<()>);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let operation = match &mut self.started {
            Started::Under(operation) => operation,
            Started::Refused(refused) => {
                let Some((buf, error)) = refused.take().map(|refused| *refused) else {
                    unreachable!("polled after its end")
                };
                return Poll::Ready((buf, Err(error)));
            }
        };
        match ready!(Pin::new(operation).poll(cx)) {
            Completion { result, buf: Some(IoBuf::Owned(mut buf)) } => {
                for patch in self.patches.iter().flat_map(|patches| patches.iter()) {
                    patch.lay_over(self.offset, &mut buf[self.part.clone()]);
                }
                Poll::Ready((buf, result.map(drop)))
            }
            other => unreachable!("a read gives its buffer back: {other:?}"),
        }
    }
}
