"""A small believable data set: law firms, lawyers, parties, cases, agents. All of it is invented.

Mobile numbers begin with 154, a block that no operator has been given; the court codes do not exist.
"""

from __future__ import annotations

import time

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from ari_app import staff
from ari_app.staff import Access, new_agent
from ari_app.store.models import Case, LawFirm, Lawyer, Milestone, Party

DAY_S = 86_400.0

FIRMS = (
    ("北京金衡律师事务所", "金衡"),
    ("上海明理律师事务所", "明理"),
    ("广东信达行律师事务所", "信达行"),
    ("四川蜀平律师事务所", "蜀平"),
)
LAWYERS = (  # name, licence, mobile, firm
    ("王建国", "11101202610000417", "15400002001", 0),
    ("李晓梅", "11101202610001862", "15400002002", 0),
    ("单文博", "13101202610002935", "15400002003", 1),
    ("陈思远", "13101202610003308", "15400002004", 1),
    ("曾庆华", "14401202610004751", "15400002005", 2),
    ("赵敏", "15101202610005269", "15400002006", 3),
)
PARTIES = (  # name, how to address, mobile
    ("张伟", "先生", "15400001001"),
    ("刘芳", "女士", "15400001002"),
    ("杨丽华", "女士", "15400001003"),
    ("黄志强", "先生", "15400001004"),
    ("周婷", "女士", "15400001005"),
    ("吴国栋", "先生", "15400001006"),
    ("解晓东", "先生", "15400001007"),
    ("欧阳雪", "女士", "15400001008"),
    ("孙悦", "女士", "15400001009"),
    ("马文杰", "先生", "15400001010"),
)
CASES = (  # serial, court code, court, type, cause, amount in yuan, party, lawyer, milestones (code, days from now)
    (12345, "京9901", "示例市第一区人民法院", "民初", "买卖合同纠纷", 128_000, 0, 0, (("filed", -40), ("scheduled", -6), ("heard", 12))),
    (20871, "京9901", "示例市第一区人民法院", "民初", "劳动争议", 56_300, 1, 0, (("filed", -60), ("served", -31))),
    (30466, "京9902", "示例市第二区人民法院", "民初", "房屋租赁合同纠纷", 89_900, 2, 1, (("filed", -12),)),
    (41178, "沪9903", "示例市江边区人民法院", "民初", "离婚纠纷", 350_000, 3, 2, (("filed", -90), ("heard", -20), ("judged", -3))),
    (50023, "沪9903", "示例市江边区人民法院", "民初", "机动车交通事故责任纠纷", 212_400, 4, 2, (("filed", -25), ("scheduled", -2), ("heard", 20))),
    (61905, "沪9904", "示例市海港区人民法院", "商初", "股权转让纠纷", 4_800_000, 5, 3, (("filed", -130), ("heard", -44))),
    (70340, "粤9905", "示例市南山区人民法院", "民初", "民间借贷纠纷", 70_000, 6, 4, (("filed", -8),)),
    (80552, "粤9905", "示例市南山区人民法院", "民初", "物业服务合同纠纷", 6_720, 7, 4, (("filed", -33), ("served", -28))),
    (90617, "川9906", "示例市青羊区人民法院", "民初", "遗产继承纠纷", 920_000, 8, 5, (("filed", -75), ("scheduled", -10), ("heard", 4))),
    (10784, "川9906", "示例市青羊区人民法院", "执", "建设工程合同纠纷", 1_560_000, 9, 5, (("filed", -200), ("judged", -64))),
    (10009, "京9901", "示例市第一区人民法院", "民终", "买卖合同纠纷", 128_000, 0, 1, (("filed", -2),)),
)  # fmt: skip
AGENTS = (
    "何静", "罗丹", "郑凯", "梁悦", "谢宁", "宋佳", "唐磊", "许诺", "韩雪", "冯涛", "邓洁", "曹阳",
)  # fmt: skip
FIRST_AGENT = 601
SUPERVISORS = {"610": "inspector", "611": "mentor", "612": "leader"}
"""AGT-5."""


def fill(session: Session, now: float | None = None) -> list[Access]:
    """Enters the data set into an empty database; what the agents need to sign in. An empty list if it is there."""
    if session.scalar(select(func.count()).select_from(LawFirm)):
        return []
    moment = time.time() if now is None else now
    year = time.gmtime(moment).tm_year
    firms = [LawFirm(name=name, short_name=short) for name, short in FIRMS]
    session.add_all(firms)
    session.flush()
    lawyers = [Lawyer(name=n, licence=lic, mobile=m, firm_id=firms[f].id) for n, lic, m, f in LAWYERS]
    parties = [Party(name=n, title=t, mobile=m) for n, t, m in PARTIES]
    session.add_all([*lawyers, *parties])
    session.flush()
    for serial, code, court, kind, cause, yuan, party, lawyer, milestones in CASES:
        case = Case(
            number=f"（{year}）{code}{kind}{serial}号",
            serial_last5=str(serial),
            court=court,
            cause=cause,
            amount_fen=yuan * 100,
            party_id=parties[party].id,
            lawyer_id=lawyers[lawyer].id,
        )
        session.add(case)
        session.flush()
        session.add_all(Milestone(case_id=case.id, code=c, at=moment + days * DAY_S) for c, days in milestones)
    access = [new_agent(session, str(FIRST_AGENT + n), name) for n, name in enumerate(AGENTS)]
    for number, role in SUPERVISORS.items():
        staff.set_role(session, number, role)
    return access
