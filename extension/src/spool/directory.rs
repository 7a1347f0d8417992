//! The directory of the spool: ours alone, locked by one process, and never anybody else's files.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use super::{ENTRIES_LIMIT, SpoolError};

const LOCK_NAME: &str = "lock";
const PROCESS_MAGIC: &[u8; 4] = b"LFXL";
const PROCESS_BYTES: usize = 16;
const SCRATCH_NAME: &str = "compacting";
const SEGMENT_EXTENSION: &str = "segment";

/// A directory that is locked for as long as this lives.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    lock: File,
    pub(super) process: Process,
}

/// Which process this is of those that had the directory. It is kept in the lock: `"LFXL"  starts u32  crashes u32
/// running u32`. A process that ends in order says so; one that is still running at the next start has crashed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Process {
    /// Processes that had it so far, this one included.
    pub(super) starts: u32,
    /// How many of those before did not end in order.
    pub(super) crashes: u32,
}

impl Process {
    fn encode(self, running: bool) -> [u8; PROCESS_BYTES] {
        let mut bytes = [0; PROCESS_BYTES];
        bytes[..4].copy_from_slice(PROCESS_MAGIC);
        bytes[4..8].copy_from_slice(&self.starts.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.crashes.to_le_bytes());
        bytes[12] = u8::from(running);
        bytes
    }

    /// The one that comes after what the lock says.
    fn next(lock: &File) -> Self {
        let mut bytes = [0; PROCESS_BYTES];
        let read = lock.read_exact_at(&mut bytes, 0);
        let [m0, m1, m2, m3, s0, s1, s2, s3, c0, c1, c2, c3, running, ..] = bytes;
        let known = read.is_ok() && [m0, m1, m2, m3] == *PROCESS_MAGIC;
        let before = if known {
            Self {
                starts: u32::from_le_bytes([s0, s1, s2, s3]),
                crashes: u32::from_le_bytes([c0, c1, c2, c3]),
            }
        } else {
            Self::default()
        };
        Self {
            starts: before.starts.wrapping_add(1),
            crashes: before.crashes.wrapping_add(u32::from(running)),
        }
    }
}

/// What lies in the directory.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// Files with the name of a segment, oldest first.
    pub(super) segments: Vec<(u32, PathBuf)>,
    /// Files with other names; they are let alone.
    pub(super) foreign: u64,
}

impl Directory {
    /// Locks the directory if it is there.
    pub(super) fn find(path: &Path) -> Result<Option<Self>, SpoolError> {
        let flags = OFlags::NOFOLLOW | OFlags::DIRECTORY;
        let opened = OpenOptions::new()
            .read(true)
            .custom_flags(flags.bits().cast_signed())
            .open(path);
        match opened {
            Ok(directory) => Self::lock(path, &directory).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) if path.is_symlink() || error.kind() == io::ErrorKind::NotADirectory => {
                Err(SpoolError::NotADirectory)
            }
            Err(error) => Err(SpoolError::io("open its directory", error)),
        }
    }

    /// Locks the directory, and makes it where it is missing.
    pub(super) fn make(path: &Path) -> Result<Self, SpoolError> {
        match DirBuilder::new().mode(0o700).create(path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(SpoolError::io("create its directory", error)),
        }
        let gone = || SpoolError::io("open its directory", io::ErrorKind::NotFound.into());
        Self::find(path)?.ok_or_else(gone)
    }

    fn lock(path: &Path, directory: &File) -> Result<Self, SpoolError> {
        let metadata = directory
            .metadata()
            .map_err(|error| SpoolError::io("look at its directory", error))?;
        let ours = metadata.uid() == rustix::process::geteuid().as_raw();
        if !ours || metadata.mode() & 0o022 != 0 {
            return Err(SpoolError::NotOurs);
        }
        let lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed())
            .open(path.join(LOCK_NAME))
            .map_err(|error| SpoolError::io("open its lock", error))?;
        match lock.try_lock() {
            Ok(()) => {
                let process = Process::next(&lock);
                // Where even that cannot be written, crashes are not counted.
                let _ = lock.write_all_at(&process.encode(true), 0);
                Ok(Self {
                    path: path.to_owned(),
                    lock,
                    process,
                })
            }
            Err(std::fs::TryLockError::WouldBlock) => Err(SpoolError::InUse),
            Err(std::fs::TryLockError::Error(error)) => Err(SpoolError::io("take its lock", error)),
        }
    }

    /// Looks at all files, and removes what a kill in the middle of a compaction left.
    pub(super) fn list(&self) -> Result<Listing, SpoolError> {
        let _ = std::fs::remove_file(self.scratch());
        let entries = std::fs::read_dir(&self.path)
            .map_err(|error| SpoolError::io("read its directory", error))?;
        let mut listing = Listing::default();
        for (seen, entry) in entries.flatten().enumerate() {
            if seen >= ENTRIES_LIMIT {
                return Err(SpoolError::Crowded);
            }
            let path = entry.path();
            match index_of(&path) {
                Some(index) => listing.segments.push((index, path)),
                None if entry.file_name() == LOCK_NAME => {}
                None => listing.foreign += 1,
            }
        }
        listing.segments.sort_unstable();
        Ok(listing)
    }

    pub(super) fn segment(&self, index: u32) -> PathBuf {
        self.path.join(format!("{index:08x}.{SEGMENT_EXTENSION}"))
    }

    pub(super) fn scratch(&self) -> PathBuf {
        self.path.join(SCRATCH_NAME)
    }

    /// The process ends in order.
    pub(super) fn close(&self) -> io::Result<()> {
        self.lock.write_all_at(&self.process.encode(false), 0)
    }

    /// Whether it is still there. Functions do empty `/tmp` between invocations.
    pub(super) fn is_linked(&self) -> bool {
        self.lock.metadata().is_ok_and(|it| it.nlink() > 0)
    }
}

fn index_of(path: &Path) -> Option<u32> {
    let stem = path.file_stem()?.to_str()?;
    let ours = path.extension()? == SEGMENT_EXTENSION && stem.len() == 8;
    u32::from_str_radix(stem, 16).ok().filter(|_| ours)
}
