import CAgent
import CLinux
import Glibc
import Kernel

/// Pages of one address space on their way out. Filled by the monitor; then owned by the thread that has the agent
/// carry it out, the monitor itself or the background evictor; then the monitor's again, which draws the consequences.
final class EvictionBatch {
    /// How a page leaves.
    enum Way: UInt8 {
        /// It was not written since it came: unmapped.
        case drop
        /// Into the agent's pipe, then unmapped. Costs one copy, and no page by page flush of the TLB.
        case splice
        /// By UFFDIO_MOVE, which the kernel refuses for pages that a device may be writing to.
        case move

        var kind: UInt32 {
            switch self {
            case .drop: LEGO_AGENT_DROP.rawValue
            case .splice: LEGO_AGENT_SPLICE.rawValue
            case .move: LEGO_AGENT_MOVE.rawValue
            }
        }
    }

    /// What became of it.
    enum Fate: UInt8 {
        case stays
        case left
        /// It lies in the agent's buffer, at the place of its number in the batch.
        case moved
        /// The kernel dropped it before, in a way that is not trapped.
        case vanished
        /// It stays, and the way that was tried is not open to it.
        case refused
    }

    static let capacity = Int(LEGO_AGENT_BATCH)

    /// Ascending page numbers.
    let pages: UnsafeMutablePointer<UInt64>
    let ways: UnsafeMutablePointer<Way>
    let fates: UnsafeMutablePointer<Fate>
    var count = 0
    var space: AddressSpace?
    var agent: Agent?
    let writeBack: WriteBack

    private var operations = 0
    private var moves = 0
    private var splices = 0
    /// Results: whether the agent has answered, pages that went through the pipe, and how that ended.
    private(set) var isAnswered = false
    /// Whether pages may have been lost with the agent.
    private(set) var isTorn = false
    private(set) var spliced = 0
    private(set) var outcome = WriteBack.Outcome.done

    init(writeBack: WriteBack) {
        self.writeBack = writeBack
        pages = .allocate(capacity: Self.capacity)
        ways = .allocate(capacity: Self.capacity)
        fates = .allocate(capacity: Self.capacity)
        fates.initialize(repeating: .stays, count: Self.capacity)
    }

    deinit {
        pages.deallocate()
        ways.deallocate()
        fates.deallocate()
    }

    /// Whether it has pages that only the monitor can deal with.
    var needsMonitor: Bool {
        for index in 0..<count where ways[index] == .move { return true }
        return false
    }

    /// Puts a page in, in order; one that is in already is not taken twice.
    func insert(_ page: UInt64) {
        var place = count
        while place > 0, pages[place - 1] > page { place -= 1 }
        if place > 0, pages[place - 1] == page { return }
        var index = count
        while index > place {
            pages[index] = pages[index - 1]
            index -= 1
        }
        pages[place] = page
        count += 1
    }

    /// The pages from `start` on that lie one behind the other and leave the same way: one operation.
    private func runLength(_ start: Int) -> Int {
        var length = 1
        while start + length < count, pages[start + length] == pages[start] + UInt64(length),
            ways[start + length] == ways[start]
        { length += 1 }
        return length
    }

    /// Writes the list for the agent.
    private func describe(_ channel: AgentChannel) {
        operations = 0
        moves = 0
        splices = 0
        var start = 0
        while start < count {
            let length = runLength(start)
            channel.operations[operations] = lego_agent_operation(
                address: Page.address(pages[start]), pages: UInt32(length), slot: UInt32(start),
                kind: ways[start].kind, done: 0, error: 0, failed: 0)
            operations += 1
            if ways[start] == .move { moves += 1 }
            if ways[start] == .splice { splices += length }
            start += length
        }
    }

    /// Posts the batch; `end` follows when the agent has answered, or has died.
    func post(_ channel: AgentChannel) {
        (isAnswered, isTorn, spliced, outcome) = (false, false, 0, .done)
        describe(channel)
        channel.postEviction(count: operations, moves: moves)
    }

    /// Follows the last wait for the agent's answer.
    func end(_ channel: AgentChannel) {
        if channel.isFinished { collect(channel) } else { isTorn = !recover(channel) }
    }

    /// Reads what the agent did, and brings the pages of the pipe where they belong. The list was written by
    /// `describe`; of the shared page only results are read, and they are bounded here.
    private func collect(_ channel: AgentChannel) {
        isAnswered = true
        spliced = min(Int(channel.page.pointee.spliced), splices)
        var piped = 0
        var operation = 0
        var start = 0
        while start < count {
            let length = runLength(start)
            let result = channel.operations[operation]
            for index in 0..<length {
                let remains = result.failed >> UInt64(index) & 1 != 0
                switch ways[start] {
                case .drop: fates[start + index] = remains ? .stays : .left
                case .splice:
                    fates[start + index] = piped == spliced ? .refused : remains ? .stays : .left
                    if piped < spliced {
                        if remains { writeBack.leaveOut(piped) }
                        piped += 1
                    }
                case .move: fates[start + index] = fate(ofMove: result, index)
                }
            }
            start += length
            operation += 1
        }
        outcome = writeBack.run(from: channel.pipe, length: spliced)
    }

    private func fate(ofMove result: lego_agent_operation, _ index: Int) -> Fate {
        if index < Int(result.done) { return .moved }
        if index == Int(result.done) && result.error == -Int64(ENOENT) { return .vanished }
        // Memory that is not writable; else shared with a forked process, pinned for DMA, where alone the device can
        // reach it, or busy for a moment.
        return result.error == -Int64(EINVAL) ? .refused : .stays
    }

    /// After the agent's death: what it has certainly not touched stays; what it may have unmapped counts as gone, for
    /// a page that is there all the same is only mapped longer than it is known to be. What went through the pipe is
    /// whole. False when pages were moved and nobody is left who could say which.
    private func recover(_ channel: AgentChannel) -> Bool {
        for index in 0..<count { fates[index] = .stays }
        if !channel.hasBegun { return true }
        if moves > 0 && !recoverMoves(channel) { return false }
        let bytes = Int(lego_pipe_bytes(channel.pipe.raw))
        spliced = min(max(0, bytes) / Int(Page.bytes), splices)
        var piped = 0
        for index in 0..<count where ways[index] != .move {
            if ways[index] == .splice {
                if piped == spliced { continue }
                piped += 1
            }
            fates[index] = .left
        }
        outcome = writeBack.run(from: channel.pipe, length: spliced)
        return true
    }

    /// Pages that the agent has moved are in its pool, which is the program's memory and outlives it, or in its buffer
    /// already; a page that is in neither was not moved.
    private func recoverMoves(_ channel: AgentChannel) -> Bool {
        guard let space, let agent else { return false }
        for user in space.users where lego_pidfd_has_ended(user.descriptor) == 0 {
            guard let map = try? PageMap(of: user.process) else { continue }
            return recoverMoves(channel, agent, map)
        }
        return false
    }

    private func recoverMoves(_ channel: AgentChannel, _ agent: Agent, _ map: borrowing PageMap) -> Bool {
        let pool = UInt64(LEGO_AGENT_BASE) + UInt64(LEGO_AGENT_POOL_OFFSET)
        var operation = 0
        var start = 0
        while start < count {
            let length = runLength(start)
            let copied = min(Int(channel.operations[operation].done), length)
            for index in start..<start + length where ways[start] == .move {
                let address = pool + UInt64(index) * Page.bytes
                guard let word = map.word(of: Page.number(address)) else { return false }
                if word.isThere {
                    let target = agent.buffer + index * Int(Page.bytes)
                    let bytes = pread(agent.programMemory.raw, target, Int(Page.bytes), off_t(address))
                    if bytes != Int(Page.bytes) { return false }
                    fates[index] = .moved
                } else if index - start < copied {
                    fates[index] = .moved
                }
            }
            start += length
            operation += 1
        }
        return true
    }

    /// Carries the batch out; for the background evictor.
    func carryOut() {
        guard let agent else { return }
        post(agent.evictions)
        _ = agent.awaitAnswer(agent.evictions, slice: 1_000_000, spins: 0) {}
        end(agent.evictions)
    }

    /// Lets go of the address space.
    func clear() {
        count = 0
        space = nil
        agent = nil
        writeBack.removeAll()
    }
}
