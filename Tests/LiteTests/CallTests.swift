import Fabric
import Glibc
import Kernel
import Testing
import Wire

@testable import Lite

extension LiteTests {
    @Suite struct HeldLink {
        @Test func callAndTransferSleepUntilTheLinkAnswers() throws {
            let network = LoopNetwork()
            let (a, b) = (try makeLoopNode(network, "a"), try makeLoopNode(network, "b"))
            defer {
                a.close()
                b.close()
            }
            let peer = try a.connect(to: b.address, until: patience)
            #expect(a.call(peer, TestFunction.echo, bytes: [1, 2, 3]).bytes == [1, 2, 3])
            network.hold()
            let thread = try KernelThread(name: "opener") {
                _ = eventually { network.heldCount > 0 }
                network.letGo()
            }
            #expect(a.call(peer, TestFunction.echo, bytes: [4, 5]).bytes == [4, 5])
            thread.join()
            b.pool[100] = 77
            network.hold()
            let second = try KernelThread(name: "opener") {
                _ = eventually { network.heldCount > 0 }
                network.letGo()
            }
            #expect(a.read(peer, [a.piece(at: 0, 100, 1)]) == .ok)
            second.join()
            #expect(a.pool[0] == 77)
        }
    }
}
