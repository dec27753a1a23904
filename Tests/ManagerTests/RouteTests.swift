import Testing

@testable import ManagerService

@Suite struct RouteTests {
    private func route(_ method: String, _ path: String, _ query: [String: String] = [:]) throws -> Route {
        try Route(method: method, path: path, query: query)
    }

    private func status(_ method: String, _ path: String, _ query: [String: String] = [:]) -> Int? {
        do {
            _ = try Route(method: method, path: path, query: query)
            return nil
        } catch {
            return error.status
        }
    }

    @Test func everyPathOfTheAPI() throws {
        #expect(try route("POST", "/v1/programs") == .submit)
        #expect(try route("GET", "/v1/programs") == .programs(all: false))
        #expect(try route("GET", "/v1/programs", ["all": "true"]) == .programs(all: true))
        #expect(try route("GET", "/v1/programs/7") == .program(7))
        #expect(try route("GET", "/v1/programs/7/stats") == .statistics(7))
        #expect(try route("GET", "/v1/programs/7/wait") == .wait(7, seconds: 30))
        #expect(try route("GET", "/v1/programs/7/wait", ["seconds": "0"]) == .wait(7, seconds: 0))
        #expect(try route("GET", "/v1/programs/7/logs") == .logs(7))
        #expect(try route("GET", "/v1/programs/7/streams") == .streams(7))
        #expect(try route("POST", "/v1/programs/7/signal") == .signal(7))
        #expect(try route("POST", "/v1/programs/7/join") == .join(7))
        #expect(try route("GET", "/v1/status") == .status)
        #expect(try route("GET", "/metrics") == .metrics)
        #expect(try route("GET", "/v1/fabric") == .fabric)
        #expect(
            try route("GET", "/v1/fabric/measure", ["from": "a", "to": "b"]) == .measureLink(from: "a", to: "b"))
        #expect(status("GET", "/v1/fabric/measure", ["from": "a"]) == 400)
        #expect(try route("POST", "/v1/fabric/model") == .linkModel)
        #expect(try route("POST", "/v1/components/memory0/kill") == .killComponent("memory0"))
    }

    @Test(arguments: [
        "/", "", "/v1", "/v1/", "/v2/status", "/v1/programs/", "/v1/programs/0", "/v1/programs/-1", "/v1/programs/+1",
        "/v1/programs/x", "/v1/programs/99999999999999999999", "/v1/programs/18446744073709551615",
        "/v1/programs/1/nope", "/v1/programs/1/stats/2", "/v1/components", "/v1/components/memory0",
        "/v1/components/memory0/start", "/v1/status/x", "/v1/fabric/x", "/v1/fabric/measure/x",
    ]) func unknownPaths(path: String) {
        #expect(status("GET", path) == 404)
    }

    @Test(arguments: [
        ("DELETE", "/v1/programs"), ("POST", "/v1/programs/1"), ("POST", "/v1/programs/1/stats"),
        ("GET", "/v1/programs/1/signal"), ("PUT", "/v1/status"), ("POST", "/metrics"),
        ("GET", "/v1/components/memory0/kill"), ("POST", "/v1/fabric"), ("GET", "/v1/fabric/model"),
    ]) func wrongMethods(method: String, path: String) {
        do {
            _ = try Route(method: method, path: path, query: [:])
            Issue.record("\(method) \(path) was taken")
        } catch {
            #expect(error.status == 405)
            #expect(error.allowedMethods?.isEmpty == false)
        }
    }

    @Test func queriesOutOfRange() {
        for seconds in ["-1", "31", "x", ""] {
            #expect(status("GET", "/v1/programs/1/wait", ["seconds": seconds]) == 400)
        }
        #expect(status("GET", "/v1/programs", ["all": "maybe"]) == 400)
    }

    @Test func errorsHoldNoControlCharacters() {
        do {
            _ = try Route(method: "GET", path: "/v1/\u{1B}[2J\n\(String(repeating: "x", count: 5000))", query: [:])
            Issue.record("the path was taken")
        } catch {
            #expect(error.failure.reason.utf8.count < 200)
            #expect(error.failure.reason.utf8.allSatisfy { $0 >= 0x20 })
        }
    }
}
