//! Units that cannot be decoded in parts: collected, decoded, and put out in parts.

use super::{CodecError, Step, StreamDecoder};

/// Decodes a unit that is there as a whole.
pub trait BlockDecoder: Send {
    /// Decodes `encoded` into `plain`, which has the length that the unit states, or its bound; returns the plain length.
    fn decode(&self, encoded: &[u8], plain: &mut [u8]) -> Result<usize, CodecError>;
}

/// A stream decoder that holds the whole unit, and then its content: the sum of both lengths is what it takes.
#[derive(Debug)]
pub struct WholeStream<D> {
    decoder: D,
    encoded_len: usize,
    plain_len: usize,
    exact: bool,
    encoded: Vec<u8>,
    /// What was decoded, once all is there.
    plain: Option<Vec<u8>>,
    put_out: usize,
}

impl<D: BlockDecoder> WholeStream<D> {
    /// Of a unit with these lengths, which were checked against the format's limits.
    pub fn new(decoder: D, encoded_len: usize, plain_len: usize) -> Self {
        Self {
            decoder,
            encoded_len,
            plain_len,
            exact: true,
            encoded: Vec::new(),
            plain: None,
            put_out: 0,
        }
    }

    /// The same with a plain length that is only a bound.
    pub fn bounded(decoder: D, encoded_len: usize, plain_max: usize) -> Self {
        Self {
            exact: false,
            ..Self::new(decoder, encoded_len, plain_max)
        }
    }
}

impl<D: BlockDecoder> StreamDecoder for WholeStream<D> {
    fn step(&mut self, input: &[u8], output: &mut [u8]) -> Result<Step, CodecError> {
        let mut consumed = 0;
        if self.plain.is_none() {
            consumed = input.len().min(self.encoded_len - self.encoded.len());
            let missing = self.encoded_len - self.encoded.len();
            self.encoded.reserve_exact(missing);
            self.encoded
                .extend_from_slice(input.get(..consumed).unwrap_or_default());
            if self.encoded.len() < self.encoded_len {
                return Ok(Step {
                    consumed,
                    produced: 0,
                    ended: false,
                });
            }
            let mut plain = vec![0; self.plain_len];
            let n = self.decoder.decode(&self.encoded, &mut plain)?;
            if self.exact && n != self.plain_len {
                return Err(CodecError::damage(
                    "a block decodes to another length than it states",
                ));
            }
            plain.truncate(n);
            self.encoded = Vec::new();
            self.plain = Some(plain);
        }
        let plain = self.plain.as_deref().unwrap_or_default();
        let ready = plain.get(self.put_out..).unwrap_or_default();
        let produced = ready.len().min(output.len());
        if let (Some(output), Some(ready)) = (output.get_mut(..produced), ready.get(..produced)) {
            output.copy_from_slice(ready);
        }
        self.put_out += produced;
        Ok(Step {
            consumed,
            produced,
            ended: self.put_out == plain.len(),
        })
    }
}
