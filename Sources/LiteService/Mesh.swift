import CLinux
import Fabric
import Glibc
import Kernel
import Lite
import Synchronization
import Wire

/// Connects the node to those that its configuration names, and to all that they know, again and again: each node of a
/// cluster is connected to each other.
final class Mesh: @unchecked Sendable {
    private static let interval = Duration.milliseconds(500)

    private let isStopping = Atomic<Bool>(false)
    private let wake: EventDescriptor
    /// What somebody else knows of: the rack's manager.
    private let learned = Mutex<[FabricAddress]>([])
    private var thread: KernelThread?

    init() throws(KernelError) { wake = try EventDescriptor() }

    func start(_ service: LiteService) throws(KernelError) {
        thread = try KernelThread(name: "lite/mesh") { [self] in
            while !isStopping.load(ordering: .acquiring) {
                connect(service)
                wait()
            }
        }
    }

    /// From now on these are visited, too, in place of those learned before.
    func learn(_ addresses: [FabricAddress]) {
        learned.withLock { $0 = addresses }
        wake.signal()
    }

    func stop() {
        isStopping.store(true, ordering: .releasing)
        wake.signal()
        thread?.join()
    }

    /// One round: the configured nodes and the learned ones, then those that the others know.
    private func connect(_ service: LiteService) {
        var known: Set<FabricAddress> = []
        for address in service.configuration.peers + learned.withLock({ $0 }) { visit(address, service, &known) }
        for number in service.control.withLock({ Array($0.members.keys) }) {
            let answer = service.ask(number, ClusterRequest(.members))
            for (index, other) in answer.words.enumerated() where other != service.own {
                let isConnected = service.control.withLock { $0.members[other] != nil }
                guard !isConnected, 2 * index < answer.texts.count,
                    let address = FabricAddress(answer.texts[2 * index])
                else { continue }
                visit(address, service, &known)
            }
        }
    }

    private func visit(_ address: FabricAddress, _ service: LiteService, _ known: inout Set<FabricAddress>) {
        if address == service.node.address || isStopping.load(ordering: .acquiring) || !known.insert(address).inserted {
            return
        }
        do throws(LiteError) {
            let peer = try service.node.connect(to: address, until: .after(service.configuration.connectTimeout))
            let number = peer.id.rawValue
            if service.control.withLock({ $0.members[number] != nil }) { return }
            let hello = ClusterRequest(.hello, texts: ["\(service.node.address)", service.configuration.name])
            let answer = service.ask(number, hello)
            if answer.status == Code.ok {
                service.enter(number, Member(name: answer.texts.first ?? "", address: "\(address)"))
            }
        } catch {
            service.logger.debug("a node cannot be reached", metadata: ["address": "\(address)", "reason": "\(error)"])
        }
    }

    private func wait() {
        var watched = pollfd(fd: wake.raw, events: Int16(POLLIN), revents: 0)
        if poll(&watched, 1, Deadline.after(Self.interval).pollMilliseconds) > 0 { wake.drain() }
    }
}
