//! A simulated disk that lies the ways disks and kernels lie. For tests; seeded, so a run repeats exactly.
//!
//! - Written bytes are in the page cache. A power cut keeps, loses or tears each unsynced 512-byte sector on its own.
//! - Names are durable after `sync_dir`. A power cut keeps a prefix of the name changes since.
//! - A failed sync marks its pages clean without having stored them, as Linux does: they read well until the power goes.
//! - Short writes, EIO and ENOSPC at any chosen operation; from a chosen operation on, nothing reaches the disk any more (a crash).
//!
//! Leaves out: reordering of name changes (journals keep their order), damage to synced bytes (tests flip bits themselves).
#![allow(clippy::unwrap_used)]

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::file::{Disk, Entry, File, Open};

const SECTOR: u64 = 512;

/// What happens at a chosen operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// This one fails with EIO (a write may have stored a part).
    Eio,
    /// This one fails with ENOSPC.
    Enospc,
    /// This one fails with EMFILE; only a file that is made can.
    Emfile,
    /// This one and all later ones fail and do nothing: the process is gone.
    Gone,
    /// This one panics: a fault of ours.
    Panic,
}

/// The disk. Clones share it.
#[derive(Clone)]
pub(crate) struct Sim(Arc<Mutex<World>>);

struct World {
    random: u64,
    inodes: BTreeMap<u64, Inode>,
    next_inode: u64,
    names: BTreeMap<PathBuf, u64>,
    durable_names: BTreeMap<PathBuf, u64>,
    changes: Vec<Change>,
    /// Handles and locks of an earlier life are dead.
    life: u64,
    locks: BTreeSet<PathBuf>,
    capacity: u64,
    short_writes: bool,
    ops: u64,
    fault: Option<(u64, Fault)>,
}

#[derive(Default)]
struct Inode {
    cache: Vec<u8>,
    disk: Vec<u8>,
    /// Sectors of `cache` that `disk` does not have and a sync would write.
    dirty: BTreeSet<u64>,
    /// Sectors of `cache` that a failed sync gave up: the cache may forget them any time.
    given_up: BTreeSet<u64>,
}

#[derive(Clone)]
enum Change {
    Set(PathBuf, u64),
    Remove(PathBuf),
    Rename(PathBuf, PathBuf),
}

impl Change {
    fn apply(&self, names: &mut BTreeMap<PathBuf, u64>) {
        match self {
            Change::Set(path, inode) => drop(names.insert(path.clone(), *inode)),
            Change::Remove(path) => drop(names.remove(path)),
            Change::Rename(from, to) => {
                if let Some(inode) = names.remove(from) {
                    names.insert(to.clone(), inode);
                }
            }
        }
    }

    fn is_in(&self, dir: &Path) -> bool {
        match self {
            Change::Set(path, _) | Change::Remove(path) | Change::Rename(path, _) => path.parent() == Some(dir),
        }
    }
}

fn os_error(errno: rustix::io::Errno) -> io::Error {
    io::Error::from_raw_os_error(errno.raw_os_error())
}

fn eio() -> io::Error {
    os_error(rustix::io::Errno::IO)
}

impl World {
    /// splitmix64.
    fn next(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }

    /// Counts a changing operation; the fault planned for it, if any.
    fn op(&mut self) -> Result<(), Fault> {
        self.ops += 1;
        match self.fault {
            Some((at, Fault::Gone)) if self.ops >= at => Err(Fault::Gone),
            Some((at, fault)) if self.ops == at => {
                self.fault = None;
                assert!(fault != Fault::Panic, "as asked");
                Err(fault)
            }
            _ => Ok(()),
        }
    }

    fn simple_op(&mut self) -> io::Result<()> {
        self.op().map_err(|fault| match fault {
            Fault::Enospc => os_error(rustix::io::Errno::NOSPC),
            Fault::Emfile => os_error(rustix::io::Errno::MFILE),
            Fault::Eio | Fault::Gone | Fault::Panic => eio(),
        })
    }

    fn used(&self) -> u64 {
        let named: BTreeSet<&u64> = self.names.values().collect();
        named.into_iter().map(|i| self.inodes[i].cache.len() as u64).sum()
    }

    fn change(&mut self, change: Change) {
        change.apply(&mut self.names);
        self.changes.push(change);
    }

    /// After a crash only names keep files.
    fn drop_unnamed(&mut self) {
        let named: BTreeSet<u64> = self.names.values().copied().collect();
        self.inodes.retain(|inode, _| named.contains(inode));
    }
}

impl Sim {
    pub(crate) fn new(seed: u64) -> Sim {
        Sim(Arc::new(Mutex::new(World {
            random: seed,
            inodes: BTreeMap::new(),
            next_inode: 1,
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            changes: Vec::new(),
            life: 0,
            locks: BTreeSet::new(),
            capacity: u64::MAX,
            short_writes: true,
            ops: 0,
            fault: None,
        })))
    }

    pub(crate) fn ops(&self) -> u64 {
        self.0.lock().ops
    }

    /// Plans a fault for the `n`-th changing operation from now on (1 is the next).
    pub(crate) fn fault_in(&self, n: u64, fault: Fault) {
        let mut world = self.0.lock();
        world.fault = Some((world.ops + n, fault));
    }

    /// Every write is whole from here on, so that operations can be counted by hand.
    pub(crate) fn whole_writes(&self) {
        self.0.lock().short_writes = false;
    }

    pub(crate) fn set_capacity(&self, bytes: u64) {
        self.0.lock().capacity = bytes;
    }

    /// The process dies; what it wrote stays in the page cache.
    pub(crate) fn kill(&self) {
        let mut world = self.0.lock();
        world.life += 1;
        world.locks.clear();
        world.fault = None;
        let mut inodes = std::mem::take(&mut world.inodes);
        for inode in inodes.values_mut() {
            for sector in std::mem::take(&mut inode.given_up) {
                let from = (sector * SECTOR) as usize;
                let to = (from + SECTOR as usize).min(inode.cache.len()).min(inode.disk.len());
                if from < to && !inode.dirty.contains(&sector) && world.below(2) == 0 {
                    inode.cache[from..to].copy_from_slice(&inode.disk[from..to]);
                }
            }
        }
        world.inodes = inodes;
    }

    /// The power goes.
    pub(crate) fn power_cut(&self) {
        self.kill();
        let mut world = self.0.lock();
        let count = world.changes.len() as u64;
        let keep = world.below(count + 1) as usize;
        let changes = std::mem::take(&mut world.changes);
        let mut names = std::mem::take(&mut world.durable_names);
        changes[..keep].iter().for_each(|change| change.apply(&mut names));
        world.durable_names = names.clone();
        world.names = names;
        world.drop_unnamed();
        let mut inodes = std::mem::take(&mut world.inodes);
        for inode in inodes.values_mut() {
            // The length of an unsynced file is what the disk had, or what the cache had.
            if inode.cache.len() != inode.disk.len() && world.below(2) == 0 {
                inode.disk.resize(inode.cache.len(), 0);
            }
            for sector in std::mem::take(&mut inode.dirty) {
                let from = (sector * SECTOR) as usize;
                let to = (from + SECTOR as usize).min(inode.cache.len()).min(inode.disk.len());
                if from >= to {
                    continue;
                }
                let kept = match world.below(3) {
                    0 => 0,
                    1 => to - from,
                    _ => world.below((to - from) as u64) as usize,
                };
                let cache = inode.cache[from..from + kept].to_vec();
                inode.disk[from..from + kept].copy_from_slice(&cache);
            }
            inode.cache = inode.disk.clone();
        }
        world.inodes = inodes;
    }

    /// Changes stored bytes behind everybody's back.
    pub(crate) fn edit(&self, path: &Path, edit: impl FnOnce(&mut Vec<u8>)) {
        let mut world = self.0.lock();
        let id = world.names[path];
        let inode = world.inodes.get_mut(&id).unwrap();
        edit(&mut inode.cache);
        inode.disk = inode.cache.clone();
        inode.dirty.clear();
    }

    /// A file's bytes as a process reads them.
    pub(crate) fn read(&self, path: &Path) -> Vec<u8> {
        let world = self.0.lock();
        world.inodes[&world.names[path]].cache.clone()
    }

    /// Names in a directory.
    pub(crate) fn names(&self, dir: &Path) -> Vec<String> {
        self.list(dir).unwrap().into_iter().map(|e| e.name).collect()
    }
}

struct SimFile {
    sim: Sim,
    inode: u64,
    life: u64,
    direct: bool,
}

struct SimLock {
    sim: Sim,
    path: PathBuf,
    life: u64,
}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut world = self.sim.0.lock();
        if world.life == self.life {
            world.locks.remove(&self.path);
        }
    }
}

impl Disk for Sim {
    fn open(&self, path: &Path, how: Open) -> io::Result<Box<dyn File>> {
        let mut world = self.0.lock();
        let direct = matches!(
            how,
            Open::ReadDirect | Open::Write { direct: true } | Open::Create { direct: true }
        );
        let inode = match (how, world.names.get(path).copied()) {
            (Open::Read | Open::ReadDirect | Open::Write { .. }, Some(inode)) => inode,
            (Open::Read | Open::ReadDirect | Open::Write { .. }, None) => return Err(io::ErrorKind::NotFound.into()),
            (Open::Create { .. }, Some(inode)) => {
                world.simple_op()?;
                let inode_ref = world.inodes.get_mut(&inode).unwrap();
                inode_ref.cache.clear();
                inode
            }
            (Open::Create { .. }, None) => {
                world.simple_op()?;
                let inode = world.next_inode;
                world.next_inode += 1;
                world.inodes.insert(inode, Inode::default());
                world.change(Change::Set(path.to_owned(), inode));
                inode
            }
        };
        Ok(Box::new(SimFile {
            sim: self.clone(),
            inode,
            life: world.life,
            direct,
        }))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        let world = self.0.lock();
        let entries = world
            .names
            .iter()
            .filter(|(path, _)| path.parent() == Some(dir))
            .map(|(path, inode)| Entry {
                name: path.file_name().unwrap().to_str().unwrap().to_owned(),
                len: world.inodes[inode].cache.len() as u64,
            });
        Ok(entries.collect())
    }

    fn create_dir(&self, _dir: &Path) -> io::Result<()> {
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut world = self.0.lock();
        world.simple_op()?;
        if !world.names.contains_key(from) {
            return Err(io::ErrorKind::NotFound.into());
        }
        world.change(Change::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut world = self.0.lock();
        world.simple_op()?;
        let inode = *world.names.get(from).ok_or(io::ErrorKind::NotFound)?;
        world.change(Change::Set(to.to_owned(), inode));
        Ok(())
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        let mut world = self.0.lock();
        world.simple_op()?;
        if !world.names.contains_key(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        world.change(Change::Remove(path.to_owned()));
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut world = self.0.lock();
        world.simple_op()?;
        let (done, rest): (Vec<Change>, Vec<Change>) = std::mem::take(&mut world.changes)
            .into_iter()
            .partition(|change| change.is_in(dir));
        done.iter().for_each(|change| change.apply(&mut world.durable_names));
        world.changes = rest;
        Ok(())
    }

    fn free_bytes(&self, _dir: &Path) -> io::Result<u64> {
        let world = self.0.lock();
        Ok(world.capacity.saturating_sub(world.used()))
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Any + Send + Sync>> {
        let mut world = self.0.lock();
        if !world.locks.insert(path.to_owned()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Box::new(SimLock {
            sim: self.clone(),
            path: path.to_owned(),
            life: world.life,
        }))
    }

    fn volatile(&self, _dir: &Path) -> io::Result<Option<&'static str>> {
        Ok(None)
    }
}

impl SimFile {
    fn with<T>(&self, what: impl FnOnce(&mut World) -> io::Result<T>) -> io::Result<T> {
        let mut world = self.sim.0.lock();
        if world.life != self.life {
            return Err(eio());
        }
        what(&mut world)
    }
}

fn store(world: &mut World, inode: u64, buf: &[u8], at: u64) {
    let inode = world.inodes.get_mut(&inode).unwrap();
    let end = at as usize + buf.len();
    if inode.cache.len() < end {
        inode.cache.resize(end, 0);
    }
    inode.cache[at as usize..end].copy_from_slice(buf);
    inode.dirty.extend(at / SECTOR..=(end as u64 - 1) / SECTOR);
}

impl File for SimFile {
    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        self.with(|world| {
            if self.direct {
                let whole = |n: u64| n.is_multiple_of(4096);
                let aligned = whole(at) && whole(buf.len() as u64) && whole(buf.as_ptr() as u64);
                assert!(aligned, "direct reads are in whole blocks");
            }
            let cache = &world.inodes[&self.inode].cache;
            let from = (at as usize).min(cache.len());
            let n = buf.len().min(cache.len() - from);
            buf[..n].copy_from_slice(&cache[from..from + n]);
            Ok(n)
        })
    }

    fn write_at(&self, buf: &[u8], at: u64) -> io::Result<usize> {
        self.with(|world| {
            if self.direct {
                let whole = |n: u64| n.is_multiple_of(4096);
                let aligned = whole(at) && whole(buf.len() as u64) && whole(buf.as_ptr() as u64);
                assert!(aligned, "direct writes are in whole blocks");
            }
            match world.op() {
                Ok(()) => {}
                Err(Fault::Gone) => return Err(eio()),
                Err(fault) => {
                    let part = world.below(buf.len() as u64 + 1) as usize;
                    if part > 0 {
                        store(world, self.inode, &buf[..part], at);
                    }
                    return Err(if fault == Fault::Eio {
                        eio()
                    } else {
                        os_error(rustix::io::Errno::NOSPC)
                    });
                }
            }
            let short = world.short_writes && !self.direct && buf.len() > 1 && world.below(8) == 0;
            let n = if short {
                1 + world.below(buf.len() as u64 - 1) as usize
            } else {
                buf.len()
            };
            store(world, self.inode, &buf[..n], at);
            Ok(n)
        })
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.with(|world| {
            world.simple_op()?;
            let have = world.inodes[&self.inode].cache.len() as u64;
            if world.used() + len.saturating_sub(have) > world.capacity {
                return Err(os_error(rustix::io::Errno::NOSPC));
            }
            let inode = world.inodes.get_mut(&self.inode).unwrap();
            if have < len {
                inode.cache.resize(len as usize, 0);
            }
            Ok(())
        })
    }

    fn sync(&self) -> io::Result<()> {
        self.with(|world| {
            let fault = world.op();
            let inode = world.inodes.get_mut(&self.inode).unwrap();
            if let Err(fault) = fault {
                if fault != Fault::Gone {
                    // The pages are marked clean, and were not stored.
                    inode.given_up.append(&mut inode.dirty);
                }
                return Err(eio());
            }
            inode.disk.resize(inode.cache.len(), 0);
            for sector in std::mem::take(&mut inode.dirty) {
                let from = (sector * SECTOR) as usize;
                let to = (from + SECTOR as usize).min(inode.cache.len());
                if from < to {
                    let (disk, cache) = (&mut inode.disk, &inode.cache);
                    disk[from..to].copy_from_slice(&cache[from..to]);
                }
            }
            Ok(())
        })
    }

    fn write_back(&self, _at: u64, _len: u64, _wait: bool) -> io::Result<()> {
        self.with(|_| Ok(()))
    }
}
