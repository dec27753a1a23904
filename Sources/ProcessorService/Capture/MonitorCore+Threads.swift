import CLinux
import Glibc
import Kernel

/// New threads and processes, ends of threads, and pages that must be there when the kernel waits for no fault.
extension MonitorCore {
    func clone3(_ space: AddressSpace, _ thread: Int32, _ address: UInt64, _ bytes: UInt64) -> Outcome {
        // struct clone_args: flags, pidfd, child_tid, ...
        var words: (UInt64, UInt64, UInt64) = (0, 0, 0)
        if bytes >= 64 {
            _ = withUnsafeMutableBytes(of: &words) { readProgram(space, address, into: $0) }
        }
        return clone(space, thread, flags: words.0, clearedThreadID: words.2)
    }

    func clone(
        _ space: AddressSpace, _ thread: Int32, flags: UInt64, clearedThreadID: UInt64
    ) -> Outcome {
        // A child inherits the processors of its parent.
        endColocation()
        if flags & CloneFlag.clearThreadID != 0 && flags & CloneFlag.sharedMemory != 0 { pin(space, clearedThreadID) }
        if flags & CloneFlag.sharedMemory == 0 {
            watch(space, 0..<Page.count_max)
            makeRoomForFork(space, thread: thread)
        }
        return .proceed
    }

    /// Makes a page resident and writable, and keeps it so: the kernel writes there at the end of a thread, when it
    /// serves no faults any more.
    func pin(_ space: AddressSpace, _ address: UInt64) {
        awaitAhead(of: space)
        let page = Page.number(address)
        if address == 0 || page >= Page.count_max || !space.regions.overlaps(page..<page + 1) { return }
        bringNow(space, page)
        let entry = space.table.entry(page)
        if entry.pointee.isResident { entry.pointee.set(PageEntry.pinned) }
        noteResident()
    }

    /// What another process reads through /proc/PID/cmdline and environ, where the kernel waits for no fault. It is on the
    /// stack already: the kernel has put it there at exec.
    func pinArguments(_ space: AddressSpace, _ thread: Int32) {
        guard let (start, end) = ProcessFiles.arguments(thread), start < end else { return }
        for page in Page.range(start, end - start).prefix(Self.argumentPages_max) { pin(space, Page.address(page)) }
    }
    /// Of more than 256 KiB, others see the first part alone, unless it is resident.
    private static let argumentPages_max = 64

    /// Makes a page of the program's memory resident and writable.
    func bringNow(_ space: AddressSpace, _ page: UInt64) {
        watch(space, page..<page + 1)
        // The kernel has it, and nobody writes to it.
        if space.hasMappedFile(at: page) { return }
        let entry = space.table.entry(page)
        if entry.pointee.isGuarded { return }
        if !entry.pointee.isResident {
            makeRoom(1)
            if space.isDead { return }
            let source =
                entry.pointee.isUntouched && space.regions.index(of: page) == nil ? zeros : absentPage(space, page)
            guard let source else { return checkStore() }
            if copyNow(space, page, source) { arrive(space, page, writable: true) }
        } else if !entry.pointee.isDirty {
            unprotectNow(space, page)
            entry.pointee.set(PageEntry.dirty)
        }
    }

    /// Copies a page in, reading the events that stand in its way. At most some rounds: a fork under way ends by
    /// itself.
    func copyNow(_ space: AddressSpace, _ page: UInt64, _ source: UnsafeMutableRawPointer) -> Bool {
        let deadline = Deadline.after(.seconds(2))
        while true {
            let result = lego_uffd_copy(space.userfault.raw, Page.address(page), source, Page.bytes, 0)
            if result != -Int64(EAGAIN) || deadline.hasPassed { return result > 0 || result == -Int64(EEXIST) }
            waitForEvents(space)
        }
    }

    private func unprotectNow(_ space: AddressSpace, _ page: UInt64) {
        let deadline = Deadline.after(.seconds(2))
        while lego_uffd_write_protect(space.userfault.raw, Page.address(page), Page.bytes, 0) == -EAGAIN,
            !deadline.hasPassed
        { waitForEvents(space) }
    }

    /// Waits a millisecond at most for something to read from the address space's userfaultfd, and reads it.
    func waitForEvents(_ space: AddressSpace) {
        var watched = pollfd(fd: space.userfault.raw, events: Int16(POLLIN), revents: 0)
        _ = poll(&watched, 1, 1)
        serveEventsOnly(space)
    }
}
