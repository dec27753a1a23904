import Wire

/// The memory quota of a program (`run --memory`): its pages here and in memory components together. As with a control
/// group whose processes are killed together (memory.oom.group), the program that goes over it is ended.
///
/// A page counts from the fault that makes it to its unmapping. What a forked process shares with its parent counts for
/// the parent alone; when that ends, for the child.
extension MonitorCore {
    /// A page has come to be.
    @inline(__always)
    func charge(_ space: AddressSpace) {
        space.charged += 1
        charged += 1
        if quotaPages > 0 && charged > quotaPages { quotaExceeded() }
    }

    /// Pages have gone. Some may have been inherited, and counted elsewhere.
    @inline(__always)
    func uncharge(_ space: AddressSpace, _ pages: Int) {
        let counted = min(pages, space.charged)
        space.charged -= counted
        charged -= counted
    }

    private func quotaExceeded() {
        fail(.quotaExceeded(bytes: UInt64(quotaPages) * Page.bytes))
    }

    /// An address space has ended: what it shared with the processes that it forked is theirs.
    func inheritCharge(of ended: AddressSpace) {
        var heir: AddressSpace?
        for case let child? in spaces where child.forkedFrom === ended {
            if let heir {
                child.forkedFrom = heir
                continue
            }
            heir = child
            var pages = 0
            child.table.forEach(in: 0..<Page.count_max) { _, entry in
                if !entry.pointee.isUntouched && !entry.pointee.isGuarded { pages += 1 }
            }
            charged += pages - child.charged
            child.charged = pages
        }
    }
}
