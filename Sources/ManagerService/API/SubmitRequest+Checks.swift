import ManagementAPI
import Wire

// What a program may be asked to be. Nothing here is taken on trust: the texts go on to a daemon that runs as root.
extension SubmitRequest {
    /// Throws for the first thing that is wrong.
    func check() throws(APIError) {
        func refuse(_ reason: String) -> APIError { APIError(422, reason, exitStatus: 126) }
        try TextChecks.check(arguments: arguments, environment: environment)
        try TextChecks.check(directory: workingDirectory)
        if let processors, ProcessorSet(processors)?.isEmpty != false {
            throw refuse("the CPUs must be a list of numbers and ranges such as 0,2-3")
        }
        if let name,
            name.isEmpty || name.utf8.count > WireLimit.name_max || name.unicodeScalars.contains(where: isControl)
        {
            throw refuse("a program's name has 1 to \(WireLimit.name_max) bytes and no control characters")
        }
    }

    /// As much of the command line as is kept and listed, in bytes.
    private static var recordedBytes_max: Int { 4 << 10 }

    /// The command line for the table of programs: a long one is cut, and ends with `…`.
    var recordedArguments: [String] {
        var recorded: [String] = []
        var bytes = 0
        for argument in arguments {
            bytes += argument.utf8.count + 1
            if bytes > Self.recordedBytes_max {
                let room = max(0, Self.recordedBytes_max - (bytes - argument.utf8.count - 1))
                var part = String.UnicodeScalarView()
                var used = 0
                for scalar in argument.unicodeScalars {
                    used += UTF8.width(scalar)
                    if used > room { break }
                    part.append(scalar)
                }
                return recorded + [String(part) + "…"]
            }
            recorded.append(argument)
        }
        return recorded
    }

    /// The name as given, or the last part of the program's path.
    var displayName: String {
        if let name { return name }
        let last = arguments.first?.split(separator: "/").last.map(String.init) ?? "program"
        var shown = ""
        for character in last where !character.unicodeScalars.contains(where: isControl) {
            if shown.utf8.count + character.utf8.count > WireLimit.name_max { break }
            shown.append(character)
        }
        return shown.isEmpty ? "program" : shown
    }

    private func isControl(_ scalar: Unicode.Scalar) -> Bool {
        scalar.value < 0x20 || (0x7F...0x9F).contains(scalar.value)
    }
}

extension JoinRequest {
    /// Throws for the first thing that is wrong.
    func check() throws(APIError) {
        try TextChecks.check(arguments: arguments, environment: environment)
        if let workingDirectory { try TextChecks.check(directory: workingDirectory) }
    }
}

/// What every start of a process has in common.
private enum TextChecks {
    private static func refuse(_ reason: String) -> APIError { APIError(422, reason, exitStatus: 126) }

    static func check(arguments: [String], environment: [String]) throws(APIError) {
        guard let program = arguments.first, !program.isEmpty else {
            throw refuse("no program is named; write it behind '--'")
        }
        if arguments.count > WireLimit.arguments_max || environment.count > WireLimit.arguments_max {
            throw refuse("more than \(WireLimit.arguments_max) arguments or variables; pass them in a file")
        }
        for text in arguments + environment {
            if text.utf8.contains(0) { throw refuse("an argument or variable holds a zero byte; leave it out") }
            if text.utf8.count > WireLimit.argumentBytes_max {
                throw refuse(
                    "an argument or variable has \(text.utf8.count) bytes, at most \(WireLimit.argumentBytes_max) "
                        + "are allowed; pass it in a file")
            }
        }
    }

    static func check(directory workingDirectory: String) throws(APIError) {
        if !workingDirectory.hasPrefix("/") || workingDirectory.utf8.contains(0)
            || workingDirectory.utf8.count > WireLimit.path_max
        {
            throw refuse("the working directory must be an absolute path of at most \(WireLimit.path_max) bytes")
        }
    }
}
