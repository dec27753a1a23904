import CLinux
import Glibc
import Kernel
import Synchronization
import Wire

/// Access to memory that its owner registered but that is no memory file: the owner's device thread does it, asked over
/// the control socket, a bounded piece at a time.
enum OwnerPacket {
    enum Kind: UInt32 {
        case request = 16
        case answer = 17
    }
    static let headBytes = 40
    static let payloadBytes_max = 32 << 10

    /// Whether a packet is one of these.
    static func kind(of bytes: ArraySlice<UInt8>) -> Kind? {
        guard bytes.count >= headBytes else { return nil }
        return Kind(rawValue: bytes.withUnsafeBytes { UInt32(littleEndian: $0.loadUnaligned(as: UInt32.self)) })
    }
}

struct OwnerRequest: WireMessage {
    var key: UInt32
    var opcode: UInt32
    /// Bytes to read, or that follow.
    var count: UInt32
    var address: UInt64
    var operand: UInt64
    var swap: UInt64

    func encode(into writer: inout WireWriter) {
        writer.write(OwnerPacket.Kind.request.rawValue)
        for word in [key, opcode, count] { writer.write(word) }
        for word in [address, operand, swap] { writer.write(word) }
    }
}

extension OwnerRequest {
    init?(from reader: inout WireReader) {
        guard reader.read(UInt32.self) == OwnerPacket.Kind.request.rawValue else { return nil }
        (key, opcode, count) = (reader.read(), reader.read(), reader.read())
        (address, operand, swap) = (reader.read(), reader.read(), reader.read())
        guard reader.isValid, count <= UInt32(OwnerPacket.payloadBytes_max) else { return nil }
    }
}

struct OwnerAnswer: WireMessage {
    var status: UInt32
    /// Of an atomic: the former value.
    var value: UInt64

    func encode(into writer: inout WireWriter) {
        writer.write(OwnerPacket.Kind.answer.rawValue)
        writer.write(status)
        for word in [value, 0, 0, 0] { writer.write(word) }
    }
}

extension OwnerAnswer {
    init?(from reader: inout WireReader) {
        guard reader.read(UInt32.self) == OwnerPacket.Kind.answer.rawValue else { return nil }
        status = reader.read()
        value = reader.read()
        _ = reader.read(raw: 24)
        if !reader.isValid { return nil }
    }
}

/// The initiator's end of the dialogue: one piece under way at a time. The send driver's, but for the answer, which the
/// device's thread leaves.
final class OwnerDialogue: @unchecked Sendable {
    /// Bytes of the request at the head of the send queue that are done.
    var offset = 0
    /// Bytes of the piece under way; nil when none is.
    var asked: Int?
    /// True from the arrival of an answer until the send driver has taken it.
    let hasAnswer = Atomic<Bool>(false)
    var packet: [UInt8] = []

    /// Keeps an answer. False when none was awaited. On the device's thread.
    func take(_ bytes: ArraySlice<UInt8>) -> Bool {
        if hasAnswer.load(ordering: .acquiring) { return false }
        packet = Array(bytes)
        hasAnswer.store(true, ordering: .releasing)
        return true
    }
}

extension SharedChannel {
    /// Carries a request on that the memory's owner has to do. On the send driver; allocates, since this path is not
    /// the fast one.
    func serve(
        _ entry: UnsafeMutablePointer<SendEntry>, _ elements: UnsafeMutablePointer<ScatterElement>,
        _ pair: SoftQueuePair
    ) -> Step {
        if let piece = owner.asked {
            guard owner.hasAnswer.load(ordering: .acquiring) else { return .waiting }
            let status = takeAnswer(entry, elements, piece)
            owner.hasAnswer.store(false, ordering: .releasing)
            owner.asked = nil
            guard status == .success else { return .finished(status) }
            owner.offset += piece
            if owner.offset == entry.pointee.count {
                owner.offset = 0
                isDoneByOwner = true
                return execute(entry, elements)
            }
        }
        let piece = min(entry.pointee.count - owner.offset, OwnerPacket.payloadBytes_max)
        let head = OwnerRequest(
            key: entry.pointee.remoteKey, opcode: UInt32(entry.pointee.opcode.rawValue), count: UInt32(piece),
            address: entry.pointee.remoteAddress &+ UInt64(owner.offset), operand: entry.pointee.operand,
            swap: entry.pointee.swap)
        var packet = head.encoded(OwnerPacket.headBytes)
        if entry.pointee.opcode == .write || entry.pointee.opcode == .writeWithImmediate {
            forEachPiece(elements, entry.pointee.elementCount, from: owner.offset, count: piece) { address, length in
                packet += UnsafeRawBufferPointer(start: address, count: length)
            }
        }
        if lego_send_descriptors(control, packet, packet.count, nil, 0) == packet.count {
            owner.asked = piece
        } else {
            pair.context.wake()
        }
        return .waiting
    }

    /// Puts what the owner answered into the local memory.
    private func takeAnswer(
        _ entry: UnsafeMutablePointer<SendEntry>, _ elements: UnsafeMutablePointer<ScatterElement>, _ piece: Int
    ) -> WorkStatus {
        owner.packet.withUnsafeBytes { bytes in
            var reader = WireReader(bytes)
            guard let answer = OwnerAnswer(from: &reader),
                let status = WorkStatus(rawValue: UInt8(truncatingIfNeeded: answer.status))
            else { return .remoteOperation }
            guard status == .success else { return status }
            return whileActive {
                guard entry.pointee.isInline || table.allLocal(elements, entry.pointee.elementCount) else {
                    return .localProtection
                }
                switch entry.pointee.opcode {
                case .read:
                    let payload = reader.read(raw: piece)
                    guard reader.isComplete else { return .remoteOperation }
                    var from = 0
                    forEachPiece(elements, entry.pointee.elementCount, from: owner.offset, count: piece) {
                        address, length in
                        memcpy(address, payload.baseAddress! + from, length)
                        from += length
                    }
                case .fetchAdd, .compareSwap: elements[0].address.storeBytes(of: answer.value, as: UInt64.self)
                case .send, .write, .writeWithImmediate: break
                }
                return .success
            }
        }
    }
}

/// The owner's end: does what is asked, on the device's thread.
final class OwnerService: @unchecked Sendable {
    private let table: RegionTableView
    /// Odd while an access is under way.
    private let activity: UnsafeMutablePointer<UInt32>

    init(table: RegionTableView) {
        self.table = table
        activity = .allocate(capacity: 1)
        activity.initialize(to: 0)
    }

    deinit { activity.deallocate() }

    func waitForAccesses() { SharedChannel.waitForChange(activity) { true } }

    /// Carries a request out and answers it. False when it is malformed or the answer does not fit the socket.
    func serve(_ bytes: ArraySlice<UInt8>, on control: Int32) -> Bool {
        bytes.withUnsafeBytes { bytes in
            var reader = WireReader(bytes)
            guard let request = OwnerRequest(from: &reader),
                let opcode = WorkOpcode(rawValue: UInt8(clamping: request.opcode))
            else { return false }
            let isWrite = opcode == .write || opcode == .writeWithImmediate
            let payload = reader.read(raw: isWrite ? Int(request.count) : 0)
            guard reader.isComplete, opcode != .send else { return false }
            var answer = OwnerAnswer(status: UInt32(WorkStatus.success.rawValue), value: 0)
            var read: [UInt8] = []
            lego_atomic_store_u32(activity, activity.pointee &+ 1)
            lego_atomic_fence()
            if !access(request, opcode, payload, &answer.value, &read) {
                answer.status = UInt32(WorkStatus.remoteAccess.rawValue)
            }
            lego_atomic_store_u32(activity, activity.pointee &+ 1)
            let packet = answer.encoded(OwnerPacket.headBytes) + read
            return lego_send_descriptors(control, packet, packet.count, nil, 0) == packet.count
        }
    }

    private func access(
        _ request: OwnerRequest, _ opcode: WorkOpcode, _ payload: UnsafeRawBufferPointer, _ value: inout UInt64,
        _ read: inout [UInt8]
    ) -> Bool {
        let isAtomic = opcode == .fetchAdd || opcode == .compareSwap
        let needed: RemoteAccess = isAtomic ? .atomic : opcode == .read ? .read : .write
        let count = isAtomic ? 8 : Int(request.count)
        guard let entry = table.entry(request.key), RegionTableView.allows(entry, needed),
            RegionTableView.covers(entry, address: request.address, count: UInt64(count)),
            let place = UnsafeMutableRawPointer(bitPattern: UInt(request.address)),
            !isAtomic || request.address % 8 == 0
        else { return false }
        switch opcode {
        case .read: read = Array(UnsafeRawBufferPointer(start: place, count: count))
        case .write, .writeWithImmediate: if count > 0 { memcpy(place, payload.baseAddress!, count) }
        case .fetchAdd: value = lego_atomic_add_u64(place.assumingMemoryBound(to: UInt64.self), request.operand)
        case .compareSwap:
            value = request.operand
            _ = lego_atomic_compare_exchange_u64(place.assumingMemoryBound(to: UInt64.self), &value, request.swap)
        case .send: return false
        }
        return true
    }
}
