//! The directory of the spool: ours alone, locked by one process, and never anybody else's files.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use super::{ENTRIES_LIMIT, SpoolError};

const LOCK_NAME: &str = "lock";
const SCRATCH_NAME: &str = "compacting";
const SEGMENT_EXTENSION: &str = "segment";

/// A directory that is locked for as long as this lives.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    lock: File,
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
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed())
            .open(path.join(LOCK_NAME))
            .map_err(|error| SpoolError::io("open its lock", error))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self {
                path: path.to_owned(),
                lock,
            }),
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
