import Wire

/// What nodes ask of each other beside data. Words are 64-bit numbers in the order given; `text` is a name or an
/// address.
///
/// *Leaf* verbs never wait and run on the callee's poller. The others may ask leaf verbs of third nodes, but nothing
/// else: so no circle of nodes waits for each other's workers. What the three that wait by themselves wait for needs no
/// worker of the callee.
enum ClusterVerb: UInt8, CaseIterable {
    /// Node's address and name: text, second text. The answer: the callee's name.
    case hello = 1
    /// The answer: node numbers, and for each its address and its name.
    case members = 2
    /// kind: may the caller make an object of that name? Answers `LITE_EBUSY` while another node may.
    case claim = 3
    /// kind: the caller has made it, or not.
    case unclaim = 4
    /// kind: the answer is the number of the callee's object of that name.
    case find = 5
    /// bytes: memory for the caller. The answer: offset in the pool. `LITE_EBUSY`: some is being cleared.
    case reserve = 6
    /// offset: gives it back.
    case release = 7
    /// region, user, rights: the answer is its bytes, and for each piece node, offset and bytes.
    case openRegion = 8
    /// region, count: so many handles of the caller are closed.
    case closeRegion = 9
    /// region: frees it.
    case freeRegion = 10
    /// region, user, rights, 1 to grant or 0 to revoke.
    case changeRights = 11
    /// region: gives it the name.
    case nameRegion = 12
    /// region, of the caller: it is freed. The answer: operations that are still under way.
    case regionFreed = 13
    /// region, of the caller, then pairs of user and rights: rights that are not among them are gone.
    case rightsChanged = 14
    /// offset, count, byte: fills memory of the callee.
    case fill = 15
    /// to, from, count: moves inside the callee's memory.
    case move = 16
    /// node, to, from, count: writes the callee's memory into another node's.
    case push = 17
    /// offset, operand, operand2, 1 to compare and swap or 0 to add. The answer: the former value.
    case atomic = 18
    /// lock, session.
    case openLock = 19
    /// lock, session, token. The answer: 1 when it is held now, and 1 when the former holder ended.
    case acquire = 20
    /// lock, session, token: gives up waiting, or what came of it.
    case withdraw = 21
    /// lock, session.
    case unlock = 22
    /// lock, session, 1 when the program has ended.
    case closeLock = 23
    /// barrier, session, token, parties. The answer: 1 when everybody is there.
    case arrive = 24
    /// barrier, session, token.
    case depart = 25
    /// token, value: the wait is over. `LITE_EGONE` when nobody waits any more.
    case wake = 26
    /// kind: waits until the name is nobody's claim, a second at most.
    case awaitClaim = 27
    /// Waits until memory that is being cleared is there, a second at most.
    case awaitMemory = 28
    /// region, of the caller: waits until no operation on it is under way, a second at most. The answer: those left.
    case awaitRegion = 29

    var isLeaf: Bool {
        switch self {
        case .members, .claim, .unclaim, .find, .reserve, .release, .openRegion, .closeRegion, .nameRegion,
            .regionFreed, .rightsChanged, .atomic, .openLock, .acquire, .wake:
            true
        case .hello, .freeRegion, .changeRights, .fill, .move, .push, .withdraw, .unlock, .closeLock, .arrive, .depart,
            .awaitClaim, .awaitMemory, .awaitRegion:
            false
        }
    }
}

/// Limits of the two messages.
enum ClusterLimit {
    static let words_max = 256
    static let texts_max = 128
    static let bytes_max = 40 << 10
}

struct ClusterRequest: WireMessage, Equatable {
    var verb: ClusterVerb
    var words: [UInt64]
    var texts: [String]

    init(_ verb: ClusterVerb, _ words: UInt64..., texts: [String] = []) {
        self.verb = verb
        self.words = words
        self.texts = texts
    }

    func encode(into writer: inout WireWriter) {
        writer.write(verb.rawValue)
        writer.write(words: words)
        writer.write(texts)
    }

    init?(from reader: inout WireReader) {
        guard let verb = ClusterVerb(rawValue: reader.read()) else { return nil }
        self.verb = verb
        words = reader.readWords()
        texts = reader.readStrings(maxCount: ClusterLimit.texts_max, max: WireLimit.address_max)
        if !reader.isValid { return nil }
    }

    /// A word; 0 where the sender gave fewer.
    subscript(_ index: Int) -> UInt64 { index < words.count ? words[index] : 0 }
    var text: String { texts.first ?? "" }
}

struct ClusterAnswer: WireMessage, Equatable {
    /// One of `lite.h`'s.
    var status: Int32
    var words: [UInt64]
    var texts: [String]

    init(_ status: Int32, _ words: UInt64..., texts: [String] = []) {
        self.status = status
        self.words = words
        self.texts = texts
    }

    func encode(into writer: inout WireWriter) {
        writer.write(status)
        writer.write(words: words)
        writer.write(texts)
    }

    init?(from reader: inout WireReader) {
        status = reader.read()
        words = reader.readWords()
        texts = reader.readStrings(maxCount: ClusterLimit.texts_max, max: WireLimit.address_max)
        if !reader.isValid { return nil }
    }

    subscript(_ index: Int) -> UInt64 { index < words.count ? words[index] : 0 }
}

extension WireWriter {
    fileprivate mutating func write(words: [UInt64]) {
        write(UInt32(truncatingIfNeeded: words.count))
        for word in words { write(word) }
    }
}

extension WireReader {
    fileprivate mutating func readWords() -> [UInt64] {
        let count = Int(read(UInt32.self))
        guard count <= ClusterLimit.words_max, count * 8 <= remaining else {
            invalidate()
            return []
        }
        var words: [UInt64] = []
        words.reserveCapacity(count)
        for _ in 0..<count { words.append(read()) }
        return words
    }
}

/// In front of the bytes of a request or a reply between programs.
struct CallHeader {
    static let encodedSize = 24

    /// The caller's wait; 0: a one-way message.
    var token: UInt64
    /// A request: bytes that the caller takes. A reply: its status.
    var detail: UInt64
    /// A request: the function.
    var function: UInt64

    func store(at address: UnsafeMutableRawPointer) {
        address.storeBytes(of: token.littleEndian, as: UInt64.self)
        address.storeBytes(of: detail.littleEndian, toByteOffset: 8, as: UInt64.self)
        address.storeBytes(of: function.littleEndian, toByteOffset: 16, as: UInt64.self)
    }

    init(token: UInt64, detail: UInt64, function: UInt64 = 0) {
        self.token = token
        self.detail = detail
        self.function = function
    }

    /// nil for a message that is too short.
    init?(_ bytes: UnsafeRawBufferPointer) {
        guard bytes.count >= Self.encodedSize else { return nil }
        token = UInt64(littleEndian: bytes.loadUnaligned(fromByteOffset: 0, as: UInt64.self))
        detail = UInt64(littleEndian: bytes.loadUnaligned(fromByteOffset: 8, as: UInt64.self))
        function = UInt64(littleEndian: bytes.loadUnaligned(fromByteOffset: 16, as: UInt64.self))
    }
}
