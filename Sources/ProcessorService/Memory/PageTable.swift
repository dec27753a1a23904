/// The pages of one address space: a radix tree of four levels of 512, as the hardware's (LegoOS §4.4 keeps the same
/// shape in its vma trees). No Dictionary, no allocation on a look-up that hits; a leaf covers 2 MiB.
///
/// Owned by the monitor thread.
struct PageTable: ~Copyable {
    typealias Node = UnsafeMutablePointer<UInt64>
    typealias EntryPointer = UnsafeMutablePointer<PageEntry>
    static let fanOut = 512
    private static let levels: UInt64 = 3

    private let root: Node
    /// The leaf that was used last: faults are local.
    private var lastKey = UInt64.max
    private var lastLeaf: EntryPointer?

    init() { root = Self.makeNode() }

    deinit { Self.free(root, level: Self.levels) }

    private static func makeNode() -> Node {
        let node = Node.allocate(capacity: fanOut)
        node.initialize(repeating: 0, count: fanOut)
        return node
    }

    private static func free(_ node: Node, level: UInt64) {
        if level > 0 {
            for index in 0..<fanOut where node[index] != 0 { free(child(node[index]), level: level - 1) }
        }
        node.deallocate()
    }

    @inline(__always) private static func child(_ bits: UInt64) -> Node {
        Node(bitPattern: UInt(bits)).unsafelyUnwrapped
    }
    @inline(__always) private static func bits(_ node: Node) -> UInt64 { UInt64(UInt(bitPattern: node)) }

    /// The entry of a page below `Page.count_max`, or nil where nothing near was ever touched.
    @inline(__always)
    mutating func find(_ page: UInt64) -> EntryPointer? {
        let key = page >> 9
        if key == lastKey { return lastLeaf.unsafelyUnwrapped + Int(page & 511) }
        guard let leaf = walk(page, creating: false) else { return nil }
        lastKey = key
        lastLeaf = leaf
        return leaf + Int(page & 511)
    }

    /// The entry of a page below `Page.count_max`. The pointer lives until `removeAll` covers its 2 MiB.
    @inline(__always)
    mutating func entry(_ page: UInt64) -> EntryPointer {
        if let found = find(page) { return found }
        let leaf = walk(page, creating: true).unsafelyUnwrapped
        lastKey = page >> 9
        lastLeaf = leaf
        return leaf + Int(page & 511)
    }

    private func walk(_ page: UInt64, creating: Bool) -> EntryPointer? {
        var node = root
        var level = Self.levels
        while level > 0 {
            let index = Int(page >> (9 * level) & 511)
            if node[index] == 0 {
                if !creating { return nil }
                node[index] = Self.bits(Self.makeNode())
            }
            node = Self.child(node[index])
            level -= 1
        }
        return UnsafeMutableRawPointer(node).assumingMemoryBound(to: PageEntry.self)
    }

    /// Visits every entry of `pages` that is not 0, in ascending order.
    func forEach(in pages: Range<UInt64>, _ body: (UInt64, EntryPointer) -> Void) {
        if pages.isEmpty { return }
        Self.visit(root, level: Self.levels, base: 0, pages, body)
    }

    private static func visit(
        _ node: Node, level: UInt64, base: UInt64, _ pages: Range<UInt64>, _ body: (UInt64, EntryPointer) -> Void
    ) {
        let span: UInt64 = 1 << (9 * level)
        let first = pages.lowerBound > base ? Int(min((pages.lowerBound - base) >> (9 * level), 511)) : 0
        for index in first..<fanOut {
            let start = base + UInt64(index) * span
            if start >= pages.upperBound { return }
            if node[index] == 0 || start + span <= pages.lowerBound { continue }
            if level > 0 {
                visit(child(node[index]), level: level - 1, base: start, pages, body)
            } else {
                body(start, UnsafeMutableRawPointer(node + index).assumingMemoryBound(to: PageEntry.self))
            }
        }
    }

    /// The first page of `pages` whose entry is not 0. Takes as long as there are leaves on the way, not pages.
    func first(in pages: Range<UInt64>) -> UInt64? {
        pages.isEmpty ? nil : Self.first(root, level: Self.levels, base: 0, pages)
    }

    private static func first(_ node: Node, level: UInt64, base: UInt64, _ pages: Range<UInt64>) -> UInt64? {
        let span: UInt64 = 1 << (9 * level)
        let start = pages.lowerBound > base ? Int(min((pages.lowerBound - base) >> (9 * level), 511)) : 0
        for index in start..<fanOut {
            let page = base + UInt64(index) * span
            if page >= pages.upperBound { return nil }
            if node[index] == 0 || page + span <= pages.lowerBound { continue }
            if level == 0 { return page }
            if let found = first(child(node[index]), level: level - 1, base: page, pages) { return found }
        }
        return nil
    }

    /// Empties `pages`, after `body` has seen each entry that is not 0. Leaves that lie wholly inside are given back.
    mutating func removeAll(in pages: Range<UInt64>, _ body: (UInt64, EntryPointer) -> Void) {
        if pages.isEmpty { return }
        lastKey = .max
        lastLeaf = nil
        Self.remove(root, level: Self.levels, base: 0, pages, body)
    }

    private static func remove(
        _ node: Node, level: UInt64, base: UInt64, _ pages: Range<UInt64>, _ body: (UInt64, EntryPointer) -> Void
    ) {
        let span: UInt64 = 1 << (9 * level)
        let first = pages.lowerBound > base ? Int(min((pages.lowerBound - base) >> (9 * level), 511)) : 0
        for index in first..<fanOut {
            let start = base + UInt64(index) * span
            if start >= pages.upperBound { return }
            if node[index] == 0 || start + span <= pages.lowerBound { continue }
            if level == 0 {
                body(start, UnsafeMutableRawPointer(node + index).assumingMemoryBound(to: PageEntry.self))
                node[index] = 0
                continue
            }
            remove(child(node[index]), level: level - 1, base: start, pages, body)
            if pages.lowerBound <= start && pages.upperBound >= start + span {
                free(child(node[index]), level: level - 1)
                node[index] = 0
            }
        }
    }
}
