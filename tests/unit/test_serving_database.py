"""What a connection to PostgreSQL asks of the server, so that nobody waits for a server that is gone."""

from typing import TYPE_CHECKING

import sqlalchemy as sa

from serving.database import Database

if TYPE_CHECKING:
    from postgres import PostgresCluster

SETTING = sa.text("SELECT reset_val, unit FROM pg_settings WHERE name = :name AND source = 'client'")


def test_a_writer_that_stops_amid_a_transaction_is_given_up_by_the_server(postgres: "PostgresCluster") -> None:
    database = Database(postgres.new_database("limits"))

    with database.engine.connect() as connection:
        limits = {
            name: connection.scalar(sa.text(f"SHOW {name}"))
            for name in ("statement_timeout", "idle_in_transaction_session_timeout")
        }
        # Over a Unix socket, as here, SHOW says 0 whatever was asked for.
        asked = {
            name: tuple(connection.execute(SETTING, {"name": name}).one())
            for name in ("tcp_keepalives_idle", "tcp_keepalives_interval", "tcp_keepalives_count")
        }
    database.close()

    assert limits == {"statement_timeout": "10s", "idle_in_transaction_session_timeout": "10s"}
    assert asked == {
        "tcp_keepalives_idle": ("10", "s"),
        "tcp_keepalives_interval": ("5", "s"),
        "tcp_keepalives_count": ("3", None),
    }


def test_a_parameter_of_the_url_goes_before_these(postgres: "PostgresCluster") -> None:
    url = sa.make_url(postgres.new_database("limits"))
    url = url.update_query_dict({"options": "-c idle_in_transaction_session_timeout=70000"})
    database = Database(url.render_as_string(hide_password=False))

    with database.engine.connect() as connection:
        limit = connection.scalar(sa.text("SHOW idle_in_transaction_session_timeout"))
    database.close()

    assert limit == "70s"


def test_reads_are_in_no_transaction_that_could_be_idle(postgres: "PostgresCluster") -> None:
    database = Database(postgres.new_database("limits"))

    with database.engine.connect() as connection:
        connection.execute(sa.text("SELECT 1"))
        process = connection.scalar(sa.text("SELECT pg_backend_pid()"))
        (row,) = database.read(sa.text("SELECT state FROM pg_stat_activity WHERE pid = :pid"), {"pid": process})
    database.close()

    assert row.state == "idle"
