import Glibc
import Kernel

/// A directory that is removed with what is in it.
final class Scratch {
    let path: String
    init() throws {
        var template = Array("/tmp/lego-control.XXXXXX".utf8CString)
        guard mkdtemp(&template) != nil else { throw KernelError("mkdtemp") }
        path = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }
    deinit {
        let child = try? ChildProcess("rm", ["-rf", path])
        _ = child?.finish()
    }
}
