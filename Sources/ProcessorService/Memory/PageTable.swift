import Glibc

/// The pages of one address space: a radix tree over 36-bit page numbers (virtual address / 4096), four levels of 512 as the
/// hardware's own. A leaf holds 512 entries, 2 MiB of address space.
///
/// Owned by the program's monitor thread. A look-up is at most four loads, one where the leaf is the last one's; only `create`
/// allocates. Pages are given as page numbers throughout.
final class PageTable {
    /// Page numbers of x86-64 user space: 47 address bits.
    static let pages_max: UInt64 = 1 << 35

    /// A leaf: entries, and for each 64 KiB block of them the chunk in which its next page is stored.
    private struct Leaf {
        var entries: UnsafeMutablePointer<PageEntry>
        /// Chunk index plus one, 0 where the block has none yet. 32 blocks of 16 pages.
        var blockChunks: UnsafeMutablePointer<UInt32>

        static let entryCount = 512
        static let blockCount = 32
        private static let bytes = entryCount * 8 + blockCount * 4

        init() {
            let memory = UnsafeMutableRawPointer.allocate(byteCount: Leaf.bytes, alignment: 64)
            memset(memory, 0, Leaf.bytes)
            self.init(at: memory)
        }

        init(at memory: UnsafeMutableRawPointer) {
            entries = memory.assumingMemoryBound(to: PageEntry.self)
            blockChunks = (memory + Leaf.entryCount * 8).assumingMemoryBound(to: UInt32.self)
        }

        func copyContents(to other: Leaf) { memcpy(other.entries, entries, Leaf.bytes) }
        func deallocate() { UnsafeMutableRawPointer(entries).deallocate() }
    }

    private typealias Node = UnsafeMutablePointer<UnsafeMutableRawPointer?>

    private let root: Node
    /// The leaf of the last look-up, and which it is.
    private var cachedLeaf: Leaf?
    private var cachedIndex = UInt64.max
    /// Pages with `isResident`.
    private(set) var residentCount = 0

    init() { root = Self.makeNode() }

    deinit { Self.free(root, level: 3) }

    private static func makeNode() -> Node {
        let node = Node.allocate(capacity: 512)
        node.initialize(repeating: nil, count: 512)
        return node
    }

    private static func free(_ node: Node, level: Int) {
        for index in 0..<512 {
            guard let child = node[index] else { continue }
            if level == 1 {
                Leaf(at: child).deallocate()
            } else {
                free(child.assumingMemoryBound(to: UnsafeMutableRawPointer?.self), level: level - 1)
            }
        }
        node.deallocate()
    }

    /// The leaf with the number `index` (page / 512).
    @inline(__always)
    private func leaf(_ index: UInt64, create: Bool) -> Leaf? {
        if index == cachedIndex { return cachedLeaf }
        guard index < Self.pages_max / 512 else { return nil }
        var node = root
        for shift in [UInt64(18), 9] {
            let at = Int((index >> shift) & 511)
            if let child = node[at] {
                node = child.assumingMemoryBound(to: UnsafeMutableRawPointer?.self)
            } else if create {
                let made = Self.makeNode()
                node[at] = UnsafeMutableRawPointer(made)
                node = made
            } else {
                return nil
            }
        }
        let at = Int(index & 511)
        let found: Leaf
        if let memory = node[at] {
            found = Leaf(at: memory)
        } else if create {
            found = Leaf()
            node[at] = UnsafeMutableRawPointer(found.entries)
        } else {
            return nil
        }
        cachedLeaf = found
        cachedIndex = index
        return found
    }

    /// The entry of a page; empty for one that the table does not know.
    @inline(__always)
    func entry(_ page: UInt64) -> PageEntry {
        guard let leaf = leaf(page >> 9, create: false) else { return .empty }
        return leaf.entries[Int(page & 511)]
    }

    /// Replaces an entry and keeps count of resident pages. Pages beyond user space are ignored.
    @inline(__always)
    func set(_ page: UInt64, _ entry: PageEntry) {
        guard let leaf = leaf(page >> 9, create: !entry.isEmpty) else { return }
        let former = leaf.entries[Int(page & 511)]
        leaf.entries[Int(page & 511)] = entry
        residentCount += (entry.isResident ? 1 : 0) - (former.isResident ? 1 : 0)
    }

    /// Where the chunk for the next page of this page's 64 KiB block is remembered; nil beyond user space.
    @inline(__always)
    func blockChunk(_ page: UInt64) -> UnsafeMutablePointer<UInt32>? {
        guard let leaf = leaf(page >> 9, create: true) else { return nil }
        return leaf.blockChunks + Int((page & 511) >> 4)
    }

    /// Visits the non-empty entries of `pages` in ascending order; what `body` leaves in an entry is kept.
    func forEach(_ pages: Range<UInt64>, _ body: (UInt64, inout PageEntry) -> Void) {
        let end = min(pages.upperBound, Self.pages_max)
        if pages.lowerBound < end { visit(root, level: 3, firstPage: 0, pages.lowerBound..<end, body) }
    }

    private func visit(
        _ node: Node, level: UInt64, firstPage: UInt64, _ pages: Range<UInt64>,
        _ body: (UInt64, inout PageEntry) -> Void
    ) {
        // A node of level 1 has leaves below it, each of 512 pages.
        let span = UInt64(512) << (9 * (level - 1))
        let first = pages.lowerBound > firstPage ? (pages.lowerBound - firstPage) / span : 0
        var index = first
        while index < 512, firstPage + index * span < pages.upperBound {
            defer { index += 1 }
            guard let child = node[Int(index)] else { continue }
            let childPage = firstPage + index * span
            if level == 1 {
                visit(Leaf(at: child), firstPage: childPage, pages, body)
            } else {
                visit(
                    child.assumingMemoryBound(to: UnsafeMutableRawPointer?.self), level: level - 1,
                    firstPage: childPage,
                    pages, body)
            }
        }
    }

    private func visit(
        _ leaf: Leaf, firstPage: UInt64, _ pages: Range<UInt64>, _ body: (UInt64, inout PageEntry) -> Void
    ) {
        let first = max(pages.lowerBound, firstPage)
        let end = min(pages.upperBound, firstPage + 512)
        for page in first..<end {
            var entry = leaf.entries[Int(page - firstPage)]
            if entry.isEmpty { continue }
            let wasResident = entry.isResident
            body(page, &entry)
            leaf.entries[Int(page - firstPage)] = entry
            residentCount += (entry.isResident ? 1 : 0) - (wasResident ? 1 : 0)
        }
    }

    /// Forgets the pages and releases their remote copies; answers how many of them were resident.
    @discardableResult
    func clear(_ pages: Range<UInt64>, store: ProgramStore) -> Int {
        var dropped = 0
        forEach(pages) { _, entry in
            if entry.isResident { dropped += 1 }
            if entry.isStored { store.release(entry) }
            entry = .empty
        }
        return dropped
    }

    /// Moves the entries of `count` pages, as mremap(2) moved the pages. What was at the new place is forgotten first; the two
    /// places do not overlap, as mremap demands.
    func move(from source: UInt64, to destination: UInt64, count: UInt64, store: ProgramStore) {
        clear(destination..<destination + count, store: store)
        // Collected first: setting entries while visiting could make nodes under the visit.
        var moved: [(UInt64, PageEntry)] = []
        forEach(source..<source + count) { page, entry in
            moved.append((page, entry))
            entry = .empty
        }
        for (page, entry) in moved { set(page - source + destination, entry) }
    }

    /// The table of a forked child: the same entries, remote copies shared, resident pages marked on both sides.
    func forkCopy(store: ProgramStore) -> PageTable {
        let child = PageTable()
        forEach(0..<Self.pages_max) { page, entry in
            if entry.isResident { entry.isForkShared = true }
            var copy = entry
            copy.isPinned = false
            if copy.isStored { store.share(copy) }
            child.set(page, copy)
        }
        return child
    }
}
