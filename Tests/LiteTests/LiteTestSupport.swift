import CLinux
import Fabric
import Glibc
import Kernel
import Synchronization
import Testing
import Wire

@testable import Lite

/// All tests that make nodes: their threads must not starve each other on a small machine.
@Suite(.serialized) enum LiteTests {}

enum TestFunction {
    static let echo = FunctionID(rawValue: 0x7f01)
    static let echoOnWorker = FunctionID(rawValue: 0x7f02)
    static let block = FunctionID(rawValue: 0x7f03)
    static let small = FunctionID(rawValue: 0x7f04)
    static let forward = FunctionID(rawValue: 0x7f05)
    static let text = FunctionID(rawValue: 0x7f06)
    static let overflow = FunctionID(rawValue: 0x7f07)
    static let count = FunctionID(rawValue: 0x7f08)
    static let absent = FunctionID(rawValue: 0x7fff)
}

let anyPort = FabricAddress(host: "127.0.0.1", port: 0)
/// The hard deadline of an operation that is expected to succeed: an error long before a hang.
var patience: Deadline { .after(.seconds(20)) }

/// A door that holds threads until it is opened.
final class Gate: @unchecked Sendable {
    private let word: UnsafeMutablePointer<UInt32>
    private let arrived = Atomic<Int>(0)
    init() {
        word = .allocate(capacity: 1)
        word.initialize(to: 0)
    }
    deinit { word.deallocate() }
    func open() {
        lego_atomic_store_u32(word, 1)
        Futex.wake(word, count: .max)
    }
    /// Waits for `open`, at most until the deadline.
    @discardableResult
    func pass(until deadline: Deadline = patience) -> Bool {
        arrived.add(1, ordering: .sequentiallyConsistent)
        while lego_atomic_load_u32(word) == 0, !deadline.hasPassed { Futex.wait(word, while: 0, until: deadline) }
        return lego_atomic_load_u32(word) != 0
    }
    var arrivals: Int { arrived.load(ordering: .acquiring) }
}

/// Looks again and again until a condition holds; false at the deadline.
func eventually(_ condition: () -> Bool) -> Bool {
    let deadline = patience
    while !condition() {
        if deadline.hasPassed { return false }
        usleep(200)
    }
    return true
}

/// Runs a body on several threads at once and waits for all of them.
func onThreads(_ count: Int, _ body: @escaping @Sendable (Int) -> Void) throws {
    var threads: [KernelThread] = []
    for number in 0..<count { threads.append(try KernelThread(name: "test\(number)") { body(number) }) }
    for thread in threads { thread.join() }
}

func openDescriptors() -> Int {
    guard let directory = opendir("/proc/self/fd") else { return -1 }
    defer { closedir(directory) }
    var count = 0
    while readdir(directory) != nil { count += 1 }
    return count
}

extension LiteNode {
    /// Offers the functions of these tests.
    func registerTestFunctions(gate: Gate = Gate()) {
        let echo: Handler = { _, request, response in
            response.copyMemory(from: request)
            return CallResult(status: .ok, count: request.count)
        }
        let bytes = configuration.messageBytes_max
        register(TestFunction.echo, requestBytes_max: bytes, responseBytes_max: bytes, on: .poller, echo)
        register(TestFunction.echoOnWorker, requestBytes_max: bytes, responseBytes_max: bytes, on: .worker, echo)
        register(TestFunction.small, requestBytes_max: 16, responseBytes_max: 16, on: .poller, echo)
        register(TestFunction.block, requestBytes_max: bytes, responseBytes_max: bytes, on: .worker) {
            _, request, response in
            gate.pass()
            response.copyMemory(from: request)
            return CallResult(status: .system(EAGAIN), count: request.count)
        }
        register(TestFunction.overflow, requestBytes_max: 0, responseBytes_max: 8, on: .poller) { _, _, response in
            CallResult(status: .ok, count: response.count + 1)
        }
    }

    /// Calls with bytes, and answers bytes.
    func call(
        _ peer: LitePeer, _ function: FunctionID, bytes: [UInt8], room: Int? = nil, until deadline: Deadline = patience
    )
        -> (status: Status, bytes: [UInt8])
    {
        var answer = [UInt8](repeating: 0, count: room ?? configuration.messageBytes_max)
        let result = bytes.withUnsafeBytes { request in
            answer.withUnsafeMutableBytes { response in
                call(peer, function, request: request, response: response, until: deadline)
            }
        }
        return (result.status, Array(answer[..<result.count]))
    }

    func read(_ peer: LitePeer, _ pieces: [Transfer], until deadline: Deadline = patience) -> Status {
        pieces.withUnsafeBufferPointer { read(peer, $0, until: deadline) }
    }

    func write(_ peer: LitePeer, _ pieces: [Transfer], until deadline: Deadline = patience) -> Status {
        pieces.withUnsafeBufferPointer { write(peer, $0, until: deadline) }
    }

    /// A piece by offsets.
    func piece(at local: Int, _ remote: UInt64, _ count: Int) -> Transfer {
        Transfer(local: pool.baseAddress! + local, remoteOffset: remote, count: count)
    }
}
