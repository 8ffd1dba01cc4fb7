//! The second tier: full blocks that memory had no room for, kept where it is slower and larger.

mod backend;
mod index;
mod load;
mod media;
mod notices;
mod processes;
mod slab;
mod store;
mod write;

pub use backend::{Backend, BackendCounts, BlockName};
pub use media::{Access, Directory, Media, MediaFile, MediaLock, MemoryMedia};
pub use store::{SlabStore, StoreConfig};

#[cfg(test)]
mod tests;
