//! Metrics as TensorBoard events: the same numbers as `metrics.jsonl`, live.
//!
//! The format is TFRecord (length, masked CRC-32C, payload, masked CRC-32C) around the protocol buffer `Event`
//! (tensorflow/core/util/event.proto), of which scalars need five fields.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;
use serde_json::Value;

use super::error::DiskError;

/// An open event file.
#[derive(Debug)]
pub struct EventFile {
    file: File,
    path: PathBuf,
}

impl EventFile {
    /// Begins the folder's only event file anew. The caller writes all known steps again, so that the file holds each
    /// step once after a resume.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn create(folder: &Path) -> Result<Self, DiskError> {
        let path = folder.join("events.out.tfevents.0.pairwise");
        let io = DiskError::io(&path, "write TensorBoard events");
        std::fs::create_dir_all(folder).map_err(&io)?;
        let mut events = Self { file: File::create(&path).map_err(io)?, path };
        // Field 3, file_version.
        let mut first = wall_time();
        put_bytes(&mut first, 3, b"brain.Event:2");
        events.write(&first)?;
        Ok(events)
    }

    /// Writes every number of a report as a scalar named by its path (`ppo/approx_kl`).
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn append(&mut self, step: u64, report: &impl Serialize) -> Result<(), DiskError> {
        self.append_scalars(step, &scalars(report))
    }

    /// Writes scalars of one step by their names; those that are no numbers, or too large for a float, are left out.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn append_scalars(&mut self, step: u64, scalars: &[(String, f64)]) -> Result<(), DiskError> {
        let mut summary = Vec::new();
        for (tag, value) in scalars.iter().filter(|(_, value)| (*value as f32).is_finite()) {
            let mut entry = Vec::new();
            put_bytes(&mut entry, 1, tag.as_bytes());
            // Field 2, simple_value, a float (wire type 5).
            entry.push(2 << 3 | 5);
            entry.extend((*value as f32).to_le_bytes());
            put_bytes(&mut summary, 1, &entry);
        }
        let mut event = wall_time();
        // Field 2, step, a varint.
        event.push(2 << 3);
        put_varint(&mut event, step);
        put_bytes(&mut event, 5, &summary);
        self.write(&event)
    }

    /// One record, in one write.
    fn write(&mut self, payload: &[u8]) -> Result<(), DiskError> {
        let length = (payload.len() as u64).to_le_bytes();
        let crc = |data: &[u8]| masked_crc(data).to_le_bytes();
        let record = [&length[..], &crc(&length), payload, &crc(payload)].concat();
        self.file.write_all(&record).map_err(DiskError::io(&self.path, "write TensorBoard events"))
    }
}

/// Every number in a report with its path, in the report's order.
#[must_use]
pub fn scalars(report: &impl Serialize) -> Vec<(String, f64)> {
    fn walk(value: &Value, path: &str, found: &mut Vec<(String, f64)>) {
        match value {
            Value::Number(number) => found.extend(number.as_f64().map(|n| (path.to_owned(), n))),
            Value::Object(fields) => {
                let join = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}/{name}") };
                fields.iter().for_each(|(name, value)| walk(value, &join(name), found));
            }
            _ => {}
        }
    }
    let mut found = Vec::new();
    walk(&serde_json::to_value(report).expect("a report always serialises"), "", &mut found);
    found
}

/// An event that has nothing but field 1, wall_time: seconds since 1970, a double (wire type 1).
fn wall_time() -> Vec<u8> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64());
    let mut event = vec![1 << 3 | 1];
    event.extend(now.to_le_bytes());
    event
}

/// A length-delimited field (wire type 2).
fn put_bytes(to: &mut Vec<u8>, field: u8, bytes: &[u8]) {
    to.push(field << 3 | 2);
    put_varint(to, bytes.len() as u64);
    to.extend_from_slice(bytes);
}

fn put_varint(to: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        to.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    to.push(value as u8);
}

/// TFRecord's mask: a CRC over data that contain CRCs would be weak.
fn masked_crc(data: &[u8]) -> u32 {
    crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32C (Castagnoli, RFC 3720), bit by bit: some hundred bytes an iteration.
fn crc32c(data: &[u8]) -> u32 {
    !data.iter().fold(!0, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 })
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{EventFile, crc32c, scalars};

    #[test]
    fn the_checksum_is_that_of_rfc_3720() {
        // Appendix B.4: 32 bytes of zeros, of ones, and counting up.
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(crc32c(&(0..32).collect::<Vec<u8>>()), 0x46dd_794e);
    }

    #[test]
    fn records_are_framed_and_hold_the_numbers_of_the_report() {
        let report = json!({"env_steps": 300, "true_return": -12.5, "disagreement": null, "ppo": {"approx_kl": 0.0}});
        let tags = scalars(&report);
        assert!(tags.contains(&("true_return".to_owned(), -12.5)) && tags.iter().any(|(t, _)| t == "ppo/approx_kl"));
        assert!(tags.iter().all(|(tag, _)| tag != "disagreement"), "what is unknown is not written");

        let folder = tempfile::tempdir().expect("a temporary folder");
        EventFile::create(folder.path()).and_then(|mut events| events.append(300, &report)).expect("writable");
        let path = folder.path().join("events.out.tfevents.0.pairwise");
        let bytes = std::fs::read(path).expect("it was written");
        let (mut at, mut records) = (0, Vec::new());
        while at < bytes.len() {
            let length = u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes")) as usize;
            records.push(&bytes[at + 12..at + 12 + length]);
            at += 16 + length;
        }
        assert_eq!((at, records.len()), (bytes.len(), 2));
        let contains = |what: &[u8]| records[1].windows(what.len()).any(|w| w == what);
        // step 300 as a varint; the tag, then −12.5 as a float.
        assert!(contains(&[0x10, 0xac, 0x02]));
        assert!(contains(b"\x0a\x0btrue_return\x15\x00\x00\x48\xc1"));
    }
}
