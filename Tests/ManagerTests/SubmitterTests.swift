import Glibc
import ManagementAPI
import Testing
import Wire

@testable import ManagerService

/// Users that a test makes up.
struct FakeUsers: UserDatabase {
    static func account(_ name: String, _ number: UInt32) -> UserAccount {
        UserAccount(name: name, userID: number, groupID: number + 1, groups: [number + 1, 44], home: "/home/\(name)")
    }
    var accounts = [account("root", 0), account("ada", 1000), account("bob", 1001), account("nobody", 65534)]
    func user(named name: String) -> UserAccount? { accounts.first { $0.name == name } }
    func user(numbered number: UInt32) -> UserAccount? { accounts.first { $0.userID == number } }
}

@Suite struct SubmitterTests {
    private let users = FakeUsers()

    private func submitter(_ caller: UInt32, _ requested: String?) -> Result<Submitter, APIError> {
        Result { () throws(APIError) in try Submitter(caller: Caller(userID: caller), requested: requested, in: users) }
    }

    @Test func peopleAreThemselves() throws {
        for requested in [nil, "", "ada", "1000"] {
            let submitter = try submitter(1000, requested).get()
            #expect(submitter.account.name == "ada" && submitter.notice == nil)
        }
    }

    @Test(arguments: ["bob", "root", "0", "1001"]) func nobodyIsAnother(requested: String) {
        guard case .failure(let error) = submitter(1000, requested) else {
            Issue.record("ada became \(requested)")
            return
        }
        #expect(error.status == 403)
    }

    @Test func rootIsNobodyUnlessItSaysOtherwise() throws {
        let silent = try submitter(0, nil).get()
        #expect(silent.account.name == "nobody")
        #expect(silent.notice == "submitted by root: runs as nobody (use --user root to run it as root)")
        let explicit = try submitter(0, "root").get()
        #expect(explicit.account.userID == 0 && explicit.notice == nil)
        let other = try submitter(0, "1001").get()
        #expect(other.account.name == "bob")
    }

    @Test func theUnknownAreRefused() {
        guard case .failure(let named) = submitter(0, "carol"), case .failure(let silent) = submitter(4711, nil) else {
            Issue.record("an unknown user was taken")
            return
        }
        #expect(named.status == 422 && silent.status == 403)
    }

    @Test func theEnvironmentFollowsTheUser() throws {
        let given = ["HOME=/root", "PATH=/bin", "USER=root", "LOGNAME=root", "HOMEPAGE=x"]
        let sudo = try submitter(0, "ada").get()
        #expect(
            sudo.environment(given, caller: Caller(userID: 0))
                == ["PATH=/bin", "HOMEPAGE=x", "HOME=/home/ada", "USER=ada", "LOGNAME=ada"])
        let own = try submitter(1000, nil).get()
        #expect(own.environment(given, caller: Caller(userID: 1000)) == given)
    }

    @Test func controlBelongsToTheOwnerAndRoot() {
        #expect(Caller(userID: 0).mayControl(1000) && Caller(userID: 1000).mayControl(1000))
        #expect(!Caller(userID: 1001).mayControl(1000) && !Caller(userID: 1000).mayControl(0))
    }

    @Test func theHostsDatabase() throws {
        let users = SystemUserDatabase()
        let root = try #require(users.user(numbered: 0))
        #expect(root.name == "root" && root.groups.contains(0) && root.home.hasPrefix("/"))
        #expect(users.user(named: root.name) == root)
        #expect(users.user(named: "no-such-user-here") == nil)
        #expect(users.user(numbered: 3_999_999_999) == nil)
    }
}

@Suite struct SubmitRequestTests {
    private func isRefused(_ change: (inout SubmitRequest) -> Void) -> Bool {
        var request = SubmitRequest(arguments: ["/bin/sort", "-n"], environment: ["A=b"], workingDirectory: "/")
        change(&request)
        do {
            try request.check()
            return false
        } catch {
            #expect(error.status == 422 && error.failure.exitStatus == 126)
            return true
        }
    }

    @Test func limits() {
        #expect(!isRefused { _ in })
        #expect(isRefused { $0.arguments = [] })
        #expect(isRefused { $0.arguments = [""] })
        #expect(isRefused { $0.arguments.append("a\0b") })
        #expect(isRefused { $0.environment.append("A=\0") })
        #expect(isRefused { $0.arguments = Array(repeating: "a", count: WireLimit.arguments_max + 1) })
        #expect(isRefused { $0.environment = [String(repeating: "a", count: WireLimit.argumentBytes_max + 1)] })
        #expect(isRefused { $0.workingDirectory = "home" })
        #expect(isRefused { $0.workingDirectory = "/a\0" })
        #expect(isRefused { $0.workingDirectory = "/" + String(repeating: "a", count: WireLimit.path_max) })
        #expect(isRefused { $0.name = "" })
        #expect(isRefused { $0.name = "a\u{1B}[2J" })
        #expect(isRefused { $0.name = String(repeating: "n", count: WireLimit.name_max + 1) })
    }

    @Test(arguments: [("/usr/bin/sort", "sort"), ("sort", "sort"), ("/", "program"), ("./a\u{7}b", "ab")])
    func namesComeFromThePath(path: String, name: String) {
        #expect(SubmitRequest(arguments: [path], environment: [], workingDirectory: "/").displayName == name)
    }

    @Test func longNamesAreCutBetweenCharacters() {
        let name = SubmitRequest(
            arguments: [String(repeating: "é", count: 100)], environment: [], workingDirectory: "/"
        ).displayName
        #expect(name == String(repeating: "é", count: WireLimit.name_max / 2))
    }
}
