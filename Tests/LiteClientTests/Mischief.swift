import CLinux
import CLite
import Kernel

@testable import LiteClient

/// What a program can write into its channel that no library writes.
enum Mischief: CaseIterable {
    case slotBeyondTheTable
    case slotTwice
    case nonsenseEverywhere
}

extension LiteSession {
    /// Misbehaves and, unless that ends the session, leaves.
    func misbehave(_ mischief: Mischief) {
        let base = channels[0].base
        let ring = (base + Int(LITE_RING_OFFSET)).assumingMemoryBound(to: lite_submission.self)
        func post(_ number: UInt32, _ change: (inout lite_submission) -> Void) {
            var submission = lite_submission()
            change(&submission)
            submission.sequence = 0
            let entry = ring + Int((number - 1) % UInt32(LITE_RING))
            entry.pointee = submission
            lego_atomic_store_u32(UnsafeMutableRawPointer(entry).assumingMemoryBound(to: UInt32.self), number)
            ringLiteDoorbell(socket)
        }
        switch mischief {
        case .slotBeyondTheTable:
            post(1) {
                $0.opcode = UInt8(LITE_OP_READ.rawValue)
                $0.slot = 64
            }
        case .slotTwice:
            // Two calls that nobody answers, in one slot.
            register(77)
            for number in 2...3 {
                post(UInt32(number)) {
                    $0.opcode = UInt8(LITE_OP_CALL.rawValue)
                    $0.handle = 77
                    $0.slot = 5
                    $0.data = UInt64(LITE_CELL_OFFSET)
                    $0.operand = UInt64(LITE_CELL_OFFSET)
                }
            }
        case .nonsenseEverywhere:
            var random = SystemRandomNumberGenerator()
            let patience = Deadline.after(.seconds(30))
            for number in 1...2000 {
                while lego_atomic_load_u32(base.assumingMemoryBound(to: UInt32.self) + 16) &+ 100 < UInt32(number) {
                    // Some of it is reason enough to be expelled before all is said.
                    if isLiteSocketClosed(socket) || patience.hasPassed { return leave() }
                    ringLiteDoorbell(socket)
                    lego_spin_pause()
                }
                post(UInt32(number)) {
                    $0.opcode = UInt8.random(in: 0...40, using: &random)
                    $0.slot = UInt16.random(in: 0..<64, using: &random)
                    $0.handle = .random(in: 0...100, using: &random)
                    $0.offset = Bool.random() ? .random(in: 0 ... .max) : 0
                    $0.count = Bool.random() ? .random(in: 0 ... .max) : 64
                    $0.data = Bool.random() ? .random(in: 0 ... .max) : UInt64(LITE_CELL_OFFSET)
                    $0.operand = .random(in: 0 ... .max)
                    $0.operand2 = .random(in: 0 ... .max)
                    $0.node = Bool.random() ? 0 : .random(in: 0 ... .max)
                }
            }
            leave()
        }
    }

    private func register(_ function: UInt16) { _ = register(function, 64, 4) }
}
