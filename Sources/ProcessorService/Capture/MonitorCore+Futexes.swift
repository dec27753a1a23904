import CLinux
import Kernel

/// Futexes that the kernel writes to where it waits for no fault: it would answer EFAULT, or leave a lock to a dead owner.
extension MonitorCore {
    /// A call in which the kernel writes to a futex: with priority inheritance, or FUTEX_WAKE_OP. It may do so at any time
    /// until the call ends, which the monitor does not see: the words stay until the thread makes its next such call, or
    /// ends. So no more than two pages of a thread are held.
    func holdWords(_ space: AddressSpace, _ notification: lego_notification) {
        releaseWords(space, notification.thread)
        let a = notification.arguments
        let operation = UInt32(truncatingIfNeeded: a.1) & FutexOperation.mask
        var words = [a.0]
        if FutexOperation.withTwoWords.contains(operation) { words.append(a.4) }
        var pages: [UInt64] = []
        for word in words {
            let page = Page.number(word)
            if word == 0 || page >= Page.count_max || !space.regions.overlaps(page..<page + 1) { continue }
            awaitAhead(of: space)
            bringNow(space, page)
            if space.isDead { return }
            let entry = space.table.entry(page)
            if !entry.pointee.isResident { continue }
            entry.pointee.set(PageEntry.held)
            space.holders[page, default: 0] += 1
            pages.append(page)
        }
        noteResident()
        if !pages.isEmpty { space.heldWords[notification.thread] = pages }
    }

    /// A thread's last call that had words held has ended.
    func releaseWords(_ space: AddressSpace, _ thread: Int32) {
        for page in space.heldWords.removeValue(forKey: thread) ?? [] {
            let others = (space.holders[page] ?? 1) - 1
            space.holders[page] = others > 0 ? others : nil
            if others <= 0 { space.table.find(page)?.pointee.clear(PageEntry.held) }
        }
    }

    /// struct robust_list_head, which the kernel reads when its thread ends, however it ends.
    func pinRobustHead(_ space: AddressSpace, _ head: UInt64) {
        pin(space, head)
        pin(space, head &+ 23)
    }

    /// The kernel walks a thread's list of robust futexes at its end, when it waits for no fault: the pages of the list
    /// and of its futexes shall be there. Where a list of the program's makes no sense, the kernel stops as well.
    func pinRobustList(_ space: AddressSpace, _ thread: Int32) {
        var head: UInt64 = 0
        if lego_robust_list(thread, &head) < 0 || head == 0 { return }
        // struct robust_list_head: the first entry, the way from an entry to its futex, the entry under way.
        var words: (next: UInt64, offset: UInt64, pending: UInt64) = (0, 0, 0)
        pinRobustHead(space, head)
        if !withUnsafeMutableBytes(of: &words, { readProgram(space, head, into: $0) }) { return }
        var entry = words.next & ~1
        if words.pending & ~1 != 0 { pin(space, (words.pending & ~1) &+ words.offset) }
        for _ in 0..<Self.robustEntries_max {
            if entry == head || entry == 0 { return }
            pin(space, entry)
            pin(space, entry &+ words.offset)
            var next: UInt64 = 0
            if !withUnsafeMutableBytes(of: &next, { readProgram(space, entry, into: $0) }) { return }
            entry = next & ~1
        }
    }
    /// ROBUST_LIST_LIMIT.
    private static let robustEntries_max = 2048
}
