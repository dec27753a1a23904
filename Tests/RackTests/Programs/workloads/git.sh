# Clone, repack, gc, fsck, log, diff and grep of the repository $1.
set -e
export HOME=$PWD GIT_CONFIG_NOSYSTEM=1 TZ=UTC
git config --global safe.directory '*'
git config --global user.name somebody
git config --global user.email somebody@example.org
export GIT_AUTHOR_DATE='2001-01-01T00:00:00Z' GIT_COMMITTER_DATE='2001-01-01T00:00:00Z'
git clone -q --no-local --bare "$1" r.git
git -C r.git log --stat --oneline | sha256sum
git -C r.git -c pack.threads=2 repack -adfq --window=5
git -C r.git gc -q --prune=now
git -C r.git fsck --full --no-progress
git -C r.git rev-list --all --objects | sort | sha256sum
git clone -q r.git work
cd work
for number in 1 2 3 4 5; do
  echo "$number" >"new$number"
  git add .
  git commit -qm "commit $number"
done
git checkout -qb side HEAD~3
echo side >side
git add .
git commit -qm side
git merge -q --no-edit -m merged -
git log -1 --format=%H%n%T
git grep -c . | sha256sum
git push -q origin HEAD:side
