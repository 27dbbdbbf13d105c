//! The codec pool: threads that do nothing but compress and decompress, each with its contexts.

use std::collections::VecDeque;
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::base::error::{Error, Kind, Result};
use crate::codec::zstd::Contexts;

type Job = Box<dyn FnOnce(&mut Contexts) + Send>;

/// A fixed number of codec threads. They end when the pool is dropped.
#[derive(Debug)]
pub struct Workers {
    jobs: Option<Sender<Job>>,
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    /// Starts `count` (at least one) threads.
    pub fn start(count: usize) -> Result<Self> {
        let count = count.max(1);
        let (jobs, queue) = bounded::<Job>(count * 2);
        let mut threads = Vec::with_capacity(count);
        for _ in 0..count {
            let queue: Receiver<Job> = queue.clone();
            let thread = std::thread::Builder::new()
                .name("codec".to_owned())
                .spawn(move || {
                    let mut contexts = Contexts::default();
                    for job in queue {
                        job(&mut contexts);
                    }
                })
                .map_err(|e| Error::new(Kind::Failed, "cannot start a codec thread").source(e))?;
            threads.push(thread);
        }
        Ok(Self {
            jobs: Some(jobs),
            threads,
        })
    }

    /// Number of threads.
    #[must_use]
    pub fn count(&self) -> usize {
        self.threads.len()
    }

    /// Hands a job to the pool; its result comes out of `order` in the order of submission.
    pub fn submit<T: Send + 'static>(
        &self,
        order: &mut Ordered<T>,
        job: impl FnOnce(&mut Contexts) -> Result<T> + Send + 'static,
    ) -> Result<()> {
        let gone = || Error::new(Kind::Failed, "the codec threads are gone");
        let (reply, result) = bounded(1);
        let job: Job = Box::new(move |contexts| {
            // Nobody waits for the result any more once its file was given up.
            reply.send(job(contexts)).ok();
        });
        self.jobs
            .as_ref()
            .ok_or_else(gone)?
            .send(job)
            .map_err(|_| gone())?;
        order.results.push_back(result);
        Ok(())
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.jobs = None;
        for thread in self.threads.drain(..) {
            // A panic in a codec thread already reached its file as a lost result.
            thread.join().ok();
        }
    }
}

/// Results of one file's jobs in the order they were submitted.
#[derive(Debug)]
pub struct Ordered<T> {
    results: VecDeque<Receiver<Result<T>>>,
}

impl<T> Default for Ordered<T> {
    fn default() -> Self {
        Self {
            results: VecDeque::new(),
        }
    }
}

impl<T> Ordered<T> {
    /// Jobs whose results were not taken yet.
    #[must_use]
    pub fn len(&self) -> usize {
        self.results.len()
    }

    /// Whether nothing is under way.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.results.is_empty()
    }

    /// Waits for the oldest job; `None` when there is none.
    pub fn take_oldest(&mut self) -> Option<Result<T>> {
        let result = self.results.pop_front()?;
        Some(result.recv().unwrap_or_else(|_| {
            Err(Error::new(
                Kind::Failed,
                "a codec thread panicked while it worked on this file",
            ))
        }))
    }
}
