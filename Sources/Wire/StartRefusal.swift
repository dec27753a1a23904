/// Beginnings of reasons for which a processor refuses to start a program, where a caller may do something about it.
public enum StartRefusal {
    /// The program's user cannot enter this directory in the tree, or it is not there.
    public static func workingDirectory(_ path: String) -> String { "the working directory \(path) cannot be entered" }
}
