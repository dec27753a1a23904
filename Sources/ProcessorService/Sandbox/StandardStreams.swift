import CLinux
import Glibc
import Kernel

/// The program's ends of its three standard streams.
public struct StandardStreams: ~Copyable, Sendable {
    public let input: Descriptor
    public let output: Descriptor
    public let error: Descriptor

    public init(input: consuming Descriptor, output: consuming Descriptor, error: consuming Descriptor) {
        self.input = input
        self.output = output
        self.error = error
    }

    /// Gives the streams to the program's user, so that it can open /dev/stdin, /dev/stdout and /dev/stderr again.
    public borrowing func give(to user: UInt32, group: UInt32) throws(KernelError) {
        for stream in [input.raw, output.raw, error.raw] {
            var status = stat()
            if fstat(stream, &status) < 0 { throw KernelError("fstat") }
            // A device belongs to the host.
            if status.st_mode & S_IFMT == S_IFCHR { continue }
            if fchown(stream, user, group) < 0 { throw KernelError("fchown") }
        }
    }
}

/// A pipe, both ends close-on-exec.
struct Pipe: ~Copyable {
    let reading: Descriptor
    let writing: Descriptor

    init() throws(KernelError) {
        var ends: [Int32] = [-1, -1]
        _ = try checked("pipe2", lego_pipe(&ends))
        reading = Descriptor(taking: ends[0])
        writing = Descriptor(taking: ends[1])
    }

    /// Closes the writing end and keeps the other.
    consuming func keepReading() -> Descriptor { reading }
}
