"""`make parts`: builds or downloads every real server that tests run against, into the parts' cache."""

from __future__ import annotations

import hdfs_server
import helm_docs
import published_crds
import s3_server


def main() -> None:
    for install in (s3_server.install, hdfs_server.install, helm_docs.install, published_crds.install):
        print(f"ready: {install()}")


if __name__ == "__main__":
    main()
