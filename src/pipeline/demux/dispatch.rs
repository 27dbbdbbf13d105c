//! The lanes as the one who feeds them sees them: which file is where, and what was not sent yet.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use crossbeam_channel::{Sender, bounded};

use super::DemuxOptions;
use super::far::FarChunk;
use super::lane::{Common, Lane};
use crate::base::cancel::Cancel;
use crate::base::error::{Error, Kind, Result};
use crate::base::pool::BufPool;
use crate::pipeline::sink::Attributes;
use crate::xbstream::{ArchivePath, ChunkHead};

/// Operations that go to a lane together: small files have five each, and a hand-over costs more than most of them.
const BATCH_LEN: usize = 64;

/// Batches that may wait for one lane. Their payload is pooled buffers, so the pool bounds the memory.
const LANE_QUEUE_LEN: usize = 8;

/// What opening and closing a file weighs, in bytes of payload, when the least busy lane is looked for.
pub(super) const FILE_WEIGHT: u64 = 16 << 10;

/// One step of one file, named by its slot.
pub(super) enum Op {
    Open(u32, ArchivePath, Attributes),
    Chunk(u32, u32),
    Data(u32, u64, Bytes),
    Hole(u32, u64, u64),
    /// Payload that was passed over and stands for what is there.
    Passed(u32, u64, u64),
    ChunkEnd(u32, Box<ChunkHead>),
    /// A whole chunk that is still in the source.
    Far(u32, Box<FarChunk>),
    Close(u32),
    /// The file is given up: it stays incomplete.
    Abandon(u32),
    /// Everything before it is done when the sender is dropped.
    Barrier(#[expect(dead_code, reason = "dropping it is the answer")] Sender<()>),
}

struct LaneHandle {
    queue: Sender<Vec<Op>>,
    /// Weight of what is queued and not yet done.
    load: Arc<AtomicU64>,
    /// Operations that were not sent yet.
    batch: Vec<Op>,
}

/// Feeds the lanes. Dropped, it lets them end.
pub(super) struct Dispatch {
    lanes: Vec<LaneHandle>,
    next_slot: u32,
    cancel: Cancel,
}

/// Runs `feed` beside the lanes; returns what it returned once they have done everything.
pub(super) fn with_lanes<R>(
    common: &Common<'_>,
    options: DemuxOptions,
    feed: impl FnOnce(Dispatch) -> R,
) -> Result<R> {
    std::thread::scope(|scope| {
        let count = options.lanes.max(1);
        let mut lanes = Vec::with_capacity(count);
        let (give, tasks) = bounded(count);
        for _ in 0..count {
            let (queue, batches) = bounded(LANE_QUEUE_LEN);
            let load = Arc::new(AtomicU64::new(0));
            let bufs = BufPool::new(options.lane_bufs.0, options.lane_bufs.1);
            let (tasks, give) = (tasks.clone(), give.clone());
            let lane = Lane::new(common, Arc::clone(&load), bufs, tasks, give);
            lanes.push(LaneHandle {
                queue,
                load,
                batch: Vec::with_capacity(BATCH_LEN),
            });
            std::thread::Builder::new()
                .name("lane".to_owned())
                .spawn_scoped(scope, move || lane.run(&batches))
                .map_err(|e| Error::new(Kind::Failed, "cannot start a lane thread").source(e))?;
        }
        // Lanes help each other as long as one of them may have something to give.
        drop((give, tasks));
        Ok(feed(Dispatch {
            lanes,
            next_slot: 0,
            cancel: common.cancel.clone(),
        }))
    })
}

impl Dispatch {
    /// Begins a file on the lane that has least to do; returns its slot and the lane.
    pub(super) fn open(
        &mut self,
        path: &ArchivePath,
        attributes: Attributes,
    ) -> Result<(u32, usize)> {
        let slot = self.next_slot;
        self.next_slot = self.next_slot.wrapping_add(1);
        let lane = (0..self.lanes.len())
            .min_by_key(|i| self.lanes[*i].load.load(Ordering::Relaxed))
            .unwrap_or(0);
        self.weigh(lane, FILE_WEIGHT);
        self.send(lane, Op::Open(slot, path.clone(), attributes))?;
        Ok((slot, lane))
    }

    /// Leaves a chunk to the lane.
    pub(super) fn far(&mut self, slot: u32, lane: usize, chunk: FarChunk) -> Result<()> {
        self.weigh(lane, chunk.len);
        self.send(lane, Op::Far(slot, Box::new(chunk)))
    }

    /// Waits until every lane has done what was sent so far.
    pub(super) fn barrier(&mut self) -> Result<()> {
        let (done, wait) = bounded(0);
        for lane in 0..self.lanes.len() {
            self.send(lane, Op::Barrier(done.clone()))?;
        }
        drop(done);
        self.send_all()?;
        // Disconnected: every lane has dropped its sender.
        wait.recv().ok();
        self.cancel.check()
    }

    /// Adds to what a lane has to do.
    pub(super) fn weigh(&self, lane: usize, weight: u64) {
        self.lanes[lane].load.fetch_add(weight, Ordering::Relaxed);
    }

    /// Sends a step, with others.
    pub(super) fn send(&mut self, lane: usize, op: Op) -> Result<()> {
        self.lanes[lane].batch.push(op);
        if self.lanes[lane].batch.len() >= BATCH_LEN {
            self.send_batch(lane)
        } else {
            Ok(())
        }
    }

    fn send_batch(&mut self, lane: usize) -> Result<()> {
        let handle = &mut self.lanes[lane];
        if handle.batch.is_empty() {
            return Ok(());
        }
        let batch = std::mem::replace(&mut handle.batch, Vec::with_capacity(BATCH_LEN));
        handle.queue.send(batch).map_err(|_| {
            self.cancel
                .check()
                .err()
                .unwrap_or_else(|| Error::new(Kind::Failed, "a lane thread is gone"))
        })
    }

    /// Sends everything that waits.
    pub(super) fn send_all(&mut self) -> Result<()> {
        (0..self.lanes.len()).try_for_each(|lane| self.send_batch(lane))
    }
}
