import ManagementAPI

/// What a request asks for: its method, path and query, understood. The list of paths is `ManagementAPI/Models.swift`.
enum Route: Equatable {
    case submit
    case programs(all: Bool)
    case program(UInt64)
    case statistics(UInt64)
    /// Seconds, 0 to 30.
    case wait(UInt64, seconds: Int)
    case logs(UInt64)
    case streams(UInt64)
    case signal(UInt64)
    case join(UInt64)
    case status
    case killComponent(String)
    case fabric
    case measureLink(from: String, to: String)
    case linkModel
    case metrics

    static let wait_seconds_max = 30

    /// `query` holds the decoded parameters.
    init(method: String, path: String, query: [String: String]) throws(APIError) {
        let parts = path.split(separator: "/", omittingEmptySubsequences: false).dropFirst().map(String.init)
        if parts == ["metrics"] {
            try Self.only("GET", method)
            self = .metrics
            return
        }
        guard parts.first == "v1" else { throw Self.noPath(path) }
        switch (parts.count, parts.dropFirst().first) {
        case (2, "programs"):
            switch method {
            case "GET": self = .programs(all: try Self.flag("all", in: query))
            case "POST": self = .submit
            default: throw Self.wrongMethod(method, allowed: "GET, POST")
            }
        case (2, "status"):
            try Self.only("GET", method)
            self = .status
        case (2...3, "fabric"):
            self = try Self.fabric(parts.count == 3 ? parts[2] : nil, method, path, query)
        case (3...4, "programs"):
            self = try Self.program(parts[2], parts.count == 4 ? parts[3] : nil, method, path, query)
        case (4, "components") where parts[3] == "kill":
            try Self.only("POST", method)
            self = .killComponent(parts[2])
        default: throw Self.noPath(path)
        }
    }

    private static func program(
        _ number: String, _ part: String?, _ method: String, _ path: String, _ query: [String: String]
    ) throws(APIError) -> Route {
        guard let id = UInt64(number), id > 0, id <= UInt64(Int64.max), number.utf8.allSatisfy({ $0 >= 0x30 }) else {
            throw APIError(404, "'\(printable(number))' is no program's number; 'legoctl ps -a' lists them")
        }
        switch part {
        case nil:
            try only("GET", method)
            return .program(id)
        case "stats":
            try only("GET", method)
            return .statistics(id)
        case "wait":
            try only("GET", method)
            let seconds = query["seconds"] ?? "\(wait_seconds_max)"
            guard let seconds = Int(seconds), (0...wait_seconds_max).contains(seconds) else {
                throw APIError(400, "'seconds' must be a number from 0 to \(wait_seconds_max)")
            }
            return .wait(id, seconds: seconds)
        case "logs":
            try only("GET", method)
            return .logs(id)
        case "streams":
            try only("GET", method)
            return .streams(id)
        case "signal":
            try only("POST", method)
            return .signal(id)
        case "join":
            try only("POST", method)
            return .join(id)
        default: throw noPath(path)
        }
    }

    private static func fabric(_ part: String?, _ method: String, _ path: String, _ query: [String: String])
        throws(APIError) -> Route
    {
        switch part {
        case nil:
            try only("GET", method)
            return .fabric
        case "measure":
            try only("GET", method)
            guard let from = query["from"], let to = query["to"] else {
                throw APIError(400, "'from' and 'to' must name the two ends of a link")
            }
            return .measureLink(from: from, to: to)
        case "model":
            try only("POST", method)
            return .linkModel
        default: throw noPath(path)
        }
    }

    private static func flag(_ name: String, in query: [String: String]) throws(APIError) -> Bool {
        switch query[name] {
        case nil, "false": return false
        case "true": return true
        default: throw APIError(400, "'\(name)' must be true or false")
        }
    }

    private static func only(_ allowed: String, _ method: String) throws(APIError) {
        if method != allowed { throw wrongMethod(method, allowed: allowed) }
    }

    private static func wrongMethod(_ method: String, allowed: String) -> APIError {
        var error = APIError(405, "\(printable(method)) is not allowed here; allowed: \(allowed)")
        error.allowedMethods = allowed
        return error
    }

    private static func noPath(_ path: String) -> APIError {
        APIError(404, "the manager has no path '\(printable(path))'")
    }

    /// At most 100 printable ASCII characters of what a client sent, fit for a terminal.
    private static func printable(_ text: String) -> String {
        String(decoding: text.utf8.prefix(100).map { (0x20..<0x7F).contains($0) ? $0 : 0x3F }, as: UTF8.self)
    }
}
