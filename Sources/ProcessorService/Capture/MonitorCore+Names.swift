import CAgent
import CLinux
import Glibc
import Kernel

/// Private file mappings as /proc shows them. The memory is anonymous, because the kernel takes pages in and out of such
/// memory only (userfaultfd(2)); its name and offset are those of the file. Linux makes a private mapping of /dev/zero
/// anonymous and goes on to show the file that was mapped: for each file there is a node of that device with the file's
/// path, in a tree of the processor's own (`ProcTree`).
extension MonitorCore {
    /// Maps private memory in place of a file. Answers the address or an error.
    func mapNamed(
        _ space: AddressSpace, _ file: borrowing Descriptor, _ address: UInt64, _ bytes: UInt64, _ protection: UInt64,
        _ flags: Int32, _ offset: UInt64
    ) -> Int64 {
        let flags = UInt64((flags & ~(MAP_POPULATE | MAP_LOCKED | MAP_ANONYMOUS)) | MAP_NORESERVE)
        if let agent = space.agent, writeName(of: file, to: agent) {
            let result = agentCall(
                space, SystemCall.mmap, address, bytes, protection, flags, UInt64(bitPattern: -1), offset,
                as: LEGO_AGENT_MAP_NAMED)
            // Where the node cannot be had, and only then, the memory has no name.
            if ![ENOENT, EACCES, ENXIO, ENOTDIR, ELOOP, EMFILE, ENFILE, ENOTCONN, EIO, EBADF, ENODEV, EPERM].contains(
                Int32(clamping: -result))
            {
                return result
            }
        }
        return agentCall(
            space, SystemCall.mmap, address, bytes, protection, flags | UInt64(MAP_ANONYMOUS), UInt64(bitPattern: -1),
            0)
    }

    /// Puts the path of a file, as the program's mounts have it, into the agent's page. False when there is no node.
    private func writeName(of file: borrowing Descriptor, to agent: Agent) -> Bool {
        guard let tree = procTree, namesDirectory >= 0 else { return false }
        return withUnsafeTemporaryAllocation(byteCount: Int(LEGO_AGENT_NAME_BYTES), alignment: 1) { path in
            let count = readlink("/proc/self/fd/\(file.raw)", path.baseAddress!, path.count)
            // What has no name, and what would not fit.
            if count < 2 || count >= path.count || path[0] != UInt8(ascii: "/") { return false }
            let name = UnsafeRawBufferPointer(rebasing: path[1..<count])
            if !tree.addName(name, user: user) { return false }
            let offset = MemoryLayout<lego_agent_page>.offset(of: \.name).unsafelyUnwrapped
            let target = UnsafeMutableRawPointer(agent.calls.page) + offset
            target.copyMemory(from: name.baseAddress!, byteCount: name.count)
            target.storeBytes(of: 0, toByteOffset: name.count, as: UInt8.self)
            return true
        }
    }
}
