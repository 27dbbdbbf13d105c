//! Encryption: version 3 chunks.

use ring::digest::{SHA256, digest};

use super::chunk::{CHUNK_LEN_MAX, CHUNK_LEN_MIN, HASH_LEN, HEAD_LEN_MAX, IV_LEN, MAGIC};
use super::key::Key;
use crate::base::error::{Error, Kind, Result};

/// Bytes that a chunk takes besides its content.
const OVERHEAD: usize = HEAD_LEN_MAX + HASH_LEN;

/// Most bytes that `len` bytes of content take when they are cut into chunks of `chunk_len`.
#[must_use]
pub const fn encrypted_len_max(len: usize, chunk_len: usize) -> usize {
    len + len.div_ceil(chunk_len) * OVERHEAD
}

/// Encrypts `plain` into `out` as version 3 chunks of at most `chunk_len` bytes of content, each with an initialisation vector
/// from `iv`; returns the bytes of `out` that were used. No content gives no chunk. `r[xbcrypt.writer.v3]`
pub fn encrypt(
    key: &Key,
    chunk_len: usize,
    plain: &[u8],
    mut out: &mut [u8],
    mut iv: impl FnMut() -> Result<[u8; IV_LEN]>,
) -> Result<usize> {
    let before = out.len();
    for content in plain.chunks(chunk_len.clamp(CHUNK_LEN_MIN, CHUNK_LEN_MAX)) {
        let (chunk, rest) = out
            .split_at_mut_checked(content.len() + OVERHEAD)
            .ok_or_else(|| Error::new(Kind::Failed, "no room for an encrypted chunk"))?;
        encrypt_chunk(key, &iv()?, content, chunk);
        out = rest;
    }
    Ok(before - out.len())
}

/// `chunk` is as long as the content and [`OVERHEAD`].
fn encrypt_chunk(key: &Key, iv: &[u8; IV_LEN], content: &[u8], chunk: &mut [u8]) {
    let (head, payload) = chunk.split_at_mut(HEAD_LEN_MAX);
    let (data, hash) = payload.split_at_mut(content.len());
    data.copy_from_slice(content);
    hash.copy_from_slice(digest(&SHA256, content).as_ref());
    key.keystream(iv).apply(payload);
    let size = payload.len() as u64;
    let checksum = crc32fast::hash(payload);
    head[..7].copy_from_slice(MAGIC);
    head[7] = b'3';
    head[8..16].fill(0);
    head[16..24].copy_from_slice(&size.to_le_bytes());
    head[24..32].copy_from_slice(&size.to_le_bytes());
    head[32..36].copy_from_slice(&checksum.to_le_bytes());
    head[36..44].copy_from_slice(&(IV_LEN as u64).to_le_bytes());
    head[44..].copy_from_slice(iv);
}
