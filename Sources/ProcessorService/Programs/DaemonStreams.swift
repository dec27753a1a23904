import CLinux
import Glibc
import Kernel

/// The daemon's ends of a program's standard streams, non-blocking. A detached program has one pipe for output and
/// error, so that their order is kept, and a log.
struct DaemonStreams: ~Copyable {
    var input: Descriptor?
    var output: Descriptor?
    var error: Descriptor?
    var log: Descriptor?
    /// The master of the program's terminal, whose duplicates input and output then are.
    var terminal: Descriptor?

    /// What goes to and comes from a terminal's master, which must be non-blocking.
    static func terminal(_ master: consuming Descriptor) throws(KernelError) -> DaemonStreams {
        let input = try master.duplicate()
        let output = try master.duplicate()
        return DaemonStreams(input: input, output: output, terminal: master)
    }
}

/// Both sides of a program's streams.
struct StreamSet: ~Copyable {
    var daemon: DaemonStreams
    let program: StandardStreams

    /// Three pipes.
    static func pipes() throws(KernelError) -> StreamSet {
        let input = try Pipe()
        let output = try Pipe()
        let error = try Pipe()
        try input.writing.setNonblocking()
        try output.reading.setNonblocking()
        try error.reading.setNonblocking()
        return StreamSet(
            daemon: DaemonStreams(input: input.writing, output: output.reading, error: error.reading),
            program: StandardStreams(input: input.reading, output: output.writing, error: error.writing))
    }

    /// For a program that gets a terminal instead.
    static func none() throws(KernelError) -> StreamSet {
        let input = try null()
        let output = try null()
        let error = try null()
        return StreamSet(
            daemon: DaemonStreams(), program: StandardStreams(input: input, output: output, error: error))
    }

    private static func null() throws(KernelError) -> Descriptor {
        let null = open("/dev/null", O_RDWR | O_CLOEXEC)
        if null < 0 { throw KernelError("open /dev/null") }
        return Descriptor(taking: null)
    }

    /// Nothing to read, and a log of all output. The program has a pipe, not the file: it can neither truncate nor read
    /// the log.
    static func log(at path: String) throws(KernelError) -> StreamSet {
        let input = try null()
        let file = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0o600)
        if file < 0 { throw KernelError("open \(path)") }
        let log = Descriptor(taking: file)
        let output = try Pipe()
        try output.reading.setNonblocking()
        let error = try output.writing.duplicate()
        return StreamSet(
            daemon: DaemonStreams(output: output.reading, log: log),
            program: StandardStreams(input: input, output: output.writing, error: error))
    }
}
