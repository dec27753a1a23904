import Fabric
import Glibc
import Kernel
import Testing

/// The devices that the checks run on.
enum DeviceKind: String, CaseIterable, CustomTestStringConvertible {
    case sharedMemory = "SoftDevice over shared memory"

    var testDescription: String { rawValue }

    func lab(
        bytes: Int = 1 << 20, parameters: QueuePairParameters = QueuePairParameters(), rightAccess: RemoteAccess = .all,
        _ check: (Lab<SoftDevice>) throws -> Void
    ) throws {
        let lab = try Lab(bytes: bytes, parameters: parameters, rightAccess: rightAccess, host: "127.0.0.1") {
            try SoftDevice(configuration: SoftDeviceConfiguration(transport: .sharedMemory))
        }
        try check(lab)
    }
}

@Suite(.serialized) struct ConformanceTests {
    @Test(arguments: DeviceKind.allCases)
    func smoke(kind: DeviceKind) throws {
        try kind.lab { lab in
            for index in 0..<4096 { lab.right.bytes[index] = UInt8(truncatingIfNeeded: index &* 7) }
            #expect(lab.left.post(.read, [lab.left.element(0, 4096)], to: lab.right.remote()))
            let completion = try lab.left.next()
            #expect(completion.status == .success)
            #expect(lab.left.bytes[..<4096].elementsEqual(lab.right.bytes[..<4096]))
            #expect(lab.right.postReceive([lab.right.element(8192, 100)]))
            #expect(lab.left.post(.send, [lab.left.element(0, 10), lab.left.element(50, 20)]))
            #expect(try lab.right.next().count == 30)
            #expect(try lab.left.next().status == .success)
            #expect(lab.right.postReceive([]))
            #expect(
                lab.left.post(.writeWithImmediate, [lab.left.element(0, 10)], to: lab.right.remote()) {
                    $0.immediate = 77
                })
            let immediate = try lab.right.next()
            #expect(immediate.immediate == 77 && immediate.kind == .receiveImmediate && immediate.count == 10)
            lab.right.pair.disconnect()
            #expect(lab.right.postReceive([]))
            #expect(try lab.right.next().status == .flushed)
        }
    }
}
