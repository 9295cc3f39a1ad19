//! The allocator of the process.

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Gives back what this thread has freed. Otherwise the allocator would wait for the thread to allocate again, which an
/// idle one does not: after 10,000 connections had closed, all of their memory stayed.
#[allow(unsafe_code, reason = "the allocator has no safe interface for this")]
pub(crate) fn release() {
    // SAFETY: `mi_collect` may be called at any time and from any thread; it touches only memory that is free.
    unsafe { libmimalloc_sys::mi_collect(true) }
}
