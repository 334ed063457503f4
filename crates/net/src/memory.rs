//! Memory that a long-running process does not need. In: nothing. Out: less resident memory, the same behaviour.

/// Lets go of the program's own code pages. Start-up runs through megabytes of code once (arguments, certificates,
/// TLS tables); what is needed again comes back from the page cache, a few pages at a time. Call it once a room runs.
#[cfg(target_os = "linux")]
pub fn forget_startup_code() {
    let Ok(exe) = std::fs::read_link("/proc/self/exe") else { return };
    let Ok(maps) = std::fs::read_to_string("/proc/self/maps") else { return };
    for line in maps.lines() {
        // start-end perms offset device inode path
        let mut words = line.split_ascii_whitespace();
        let (Some(range), Some("r-xp"), Some(path)) = (words.next(), words.next(), words.nth(3)) else { continue };
        if exe.to_str() != Some(path) {
            continue;
        }
        let Some((start, end)) = range.split_once('-') else { continue };
        let (Ok(start), Ok(end)) = (usize::from_str_radix(start, 16), usize::from_str_radix(end, 16)) else { continue };
        #[expect(unsafe_code, reason = "mapped memory is dropped by address")]
        // SAFETY: the range is a mapping of this process that the kernel itself named: private, backed by the
        // program's file, not writable, so that no page of it differs from the file. Dropped pages are read from the
        // same file again when they are next touched, this very code included.
        let dropped = unsafe {
            rustix::mm::madvise(start as *mut core::ffi::c_void, end - start, rustix::mm::Advice::LinuxDontNeed)
        };
        if let Err(e) = dropped {
            tracing::debug!(err = %e, "cannot release start-up code");
        }
    }
}

/// Elsewhere the system decides by itself.
#[cfg(not(target_os = "linux"))]
pub fn forget_startup_code() {}

/// Gives the system back what was freed: after many connections have ended, what is left of their memory lies between
/// small things that stay, and the allocator keeps it. A few milliseconds; not for hot paths.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub fn give_back() {
    #[expect(unsafe_code, reason = "malloc_trim is no function of a Rust crate here")]
    unsafe extern "C" {
        /// malloc_trim(3), of the C library that the allocator is of.
        fn malloc_trim(pad: usize) -> core::ffi::c_int;
    }
    #[expect(unsafe_code, reason = "malloc_trim is no function of a Rust crate here")]
    // SAFETY: it takes the allocator's own locks, and touches no memory that is in use.
    let _ = unsafe { malloc_trim(0) };
}

/// Elsewhere the allocator decides by itself.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn give_back() {}
